"""Many callers at once, whatever the wire format."""
