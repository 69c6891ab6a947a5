"""The policy as a model for smolagents, and tools that show it images."""
