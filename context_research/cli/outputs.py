"""Where runs and reports are: an option of every command that reads or writes them."""

from __future__ import annotations

from pathlib import Path

import click

from context_research.plugin import project

option = click.option(
    "--outputs",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for runs and reports (default: where pytest puts them here).",
)


def folder(outputs: Path | None) -> Path:
    """The folder given, or the one that a run has whose command line names none. Raises UsageProblem."""
    return outputs if outputs is not None else project.here().outputs
