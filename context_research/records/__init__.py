"""What a run leaves: typed records, files, writing and reading."""
