"""What RLVR and replay moved inside the models."""
