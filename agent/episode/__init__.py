"""One question, looked into until it is answered."""
