"""A chat turn, whichever framework asks for it."""
