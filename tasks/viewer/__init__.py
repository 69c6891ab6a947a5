"""The HTML page that shows runs side by side."""
