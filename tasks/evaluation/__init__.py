"""Runs of agents on tasks: evaluation, files, summaries, comparison and export."""
