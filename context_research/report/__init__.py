"""A run's report, from its artifacts alone."""

from context_research.report.markdown import write as write
from context_research.report.validity import terminal_table as terminal_table
