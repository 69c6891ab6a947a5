"""Tasks that are drawn here, so that the answers are known."""
