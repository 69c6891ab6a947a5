"""Model families: what differs between architectures."""
