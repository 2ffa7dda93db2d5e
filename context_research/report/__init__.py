"""Reports: Markdown, tables, figures."""
