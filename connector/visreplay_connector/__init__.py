"""A KV connector of vLLM that takes prefills from visreplay; imports nothing of it."""
