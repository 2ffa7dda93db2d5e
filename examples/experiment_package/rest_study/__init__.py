"""An experiment, and what it adds to context-research."""
