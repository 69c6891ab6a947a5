"""Serving many callers at once, whatever the wire format."""
