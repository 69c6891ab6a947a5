"""Rules that tell whether an answer is right."""
