"""What this machine has, and where engines run on it."""
