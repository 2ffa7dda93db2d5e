"""A run's report, from its artifacts alone."""

from context_research.report.markdown import write as write
