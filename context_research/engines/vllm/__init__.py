"""Real vLLM engines."""
