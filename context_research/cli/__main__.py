"""``python -m context_research.cli``, as ``context-research``."""

from context_research.cli.main import main

main(prog_name="context-research")
