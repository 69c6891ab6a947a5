"""Analysis of the changes that RLVR and replay make inside of the models."""
