"""Where runs and reports are: an option of every command that reads or writes them."""

from __future__ import annotations

from pathlib import Path

import click

from context_research.settings import sources
from context_research.settings.options import from_environment

option = click.option(
    "--outputs",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for runs and reports (default: CONTEXT_RESEARCH_OUTPUTS, else outputs).",
)


def folder(outputs: Path | None) -> Path:
    """The folder given, or the default."""
    default = sources.parse_options("environment", from_environment()).values.get("outputs", "outputs")
    return outputs or Path(default)
