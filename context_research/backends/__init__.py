"""Backends: what runs the engines. Real vLLM in this process, or simulated engines; a new one is one file here."""
