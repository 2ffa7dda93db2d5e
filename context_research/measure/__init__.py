"""One case measured: metrics, and the checks that make it count."""
