"""Serving modes: which engines there are, and how one request passes through them."""
