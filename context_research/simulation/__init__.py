"""Serving in virtual time: vLLM's own scheduler, with a model of how long each of its steps takes."""
