"""Runs, and what they say."""
