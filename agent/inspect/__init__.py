"""The door for Inspect: a model provider, and a solver that plays whole episodes."""
