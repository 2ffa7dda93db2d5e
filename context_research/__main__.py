"""``python -m context_research``: what is done outside pytest."""

from context_research.cli.main import main

main(prog_name="context-research")
