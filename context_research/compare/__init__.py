"""Which runs may be compared, and what their pairs say."""
