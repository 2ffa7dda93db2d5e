"""Where runs and reports are: an option of every command that reads or writes them."""

from __future__ import annotations

from pathlib import Path

import click

from context_research.errors import UsageProblem
from context_research.plugin import project

option = click.option(
    "--outputs",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for runs and reports (default: where pytest puts them here).",
)


def folder(outputs: Path | None) -> Path:
    """The folder given, or the one that a run has whose command line names none. Raises UsageProblem."""
    if outputs is not None:
        return outputs.expanduser()
    try:
        return project.here().outputs
    except UsageProblem as problem:
        raise UsageProblem(f"{problem} (--outputs DIR does without)") from None
