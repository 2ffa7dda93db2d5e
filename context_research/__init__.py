"""Measures, with proof, whether disaggregated serving pays: a pytest plugin and benchmark suite on real vLLM."""

__version__ = "0.1.0"
