"""The validity checks: what they judge, the evidence, the registry."""
