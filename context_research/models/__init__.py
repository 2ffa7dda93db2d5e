"""Which model a run serves, and the KV bytes that it takes."""
