"""The door to vLLM: it decodes what a policy in this process has read and replayed."""
