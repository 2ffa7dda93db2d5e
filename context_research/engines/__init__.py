"""Engines: what the rest needs of one, real vLLM, a simulated one, and one that computes nothing."""
