"""Tasks whose pictures and videos are drawn from seeds, so that the answers are known."""
