"""Engines: one vLLM engine each, behind the protocol of `base`."""
