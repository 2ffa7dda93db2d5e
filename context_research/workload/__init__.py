"""The requests of a case, and when they are sent."""
