"""Agents that think with images, steered by Activation Replay (arXiv 2511.19972)."""
