"""Simulated engines: vLLM's own scheduler in virtual time."""
