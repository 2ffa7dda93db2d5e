"""The figures of a run or of a comparison."""
