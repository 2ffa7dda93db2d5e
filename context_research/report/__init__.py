"""Reports of runs and of comparisons, from their artifacts alone."""
