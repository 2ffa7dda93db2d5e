"""How far the simulated backend is off, and profiles from real runs."""
