"""The smolagents door."""
