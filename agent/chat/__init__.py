"""A chat turn, whichever framework sends it."""
