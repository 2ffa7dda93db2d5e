"""Thousands of spoilt settings and artifacts: each works, or is one line with an exit status. See README.md."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import click

import artifact_inputs
import endings
import load_inputs
import settings_inputs

NONE, SOME = 0, 1
"""Exit codes: defects found."""
_MEMORY = 6 << 30
"""Bytes of address space: an input that asks for more is a defect, and not the machine's end."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--settings", type=click.IntRange(0), default=2000, help="Spoilt YAML files, --set values and options.")
@click.option("--artifacts", type=click.IntRange(0), default=1000, help="Spoilt files of runs and A/Bs.")
@click.option("--seed", type=click.IntRange(0), default=0)
def main(settings: int, artifacts: int, seed: int) -> None:
    """Give context-research spoilt input, in this process, and look for tracebacks.

    Exit code 1 if an input ended in anything but one line.
    """
    for name in [name for name in os.environ if name.startswith("CONTEXT_RESEARCH_")]:
        del os.environ[name]  # a setting of this machine would be in every input
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with (
        tempfile.TemporaryDirectory(prefix="context-research-fuzz-") as scratch,
        chdir(scratch),
        click.progressbar(length=settings + artifacts, label="inputs", file=sys.stderr) as progress,
    ):
        tallies = run(Path(scratch), settings, artifacts, seed, lambda: progress.update(1))
    endings.table(tallies)
    sys.exit(SOME if any(tally.defects for tally in tallies) else NONE)


def run(scratch: Path, settings: int, artifacts: int, seed: int, beat: endings.Beat) -> list[endings.Tally]:
    """So many inputs of each sort; files are written below `scratch`."""
    of_settings = settings_inputs.Inputs(_folder(scratch / "settings"))
    of_loads = load_inputs.Loads(scratch / "settings", of_settings.read)
    kinds = {
        "YAML files": of_settings.yaml_file,
        "--set": of_settings.set_option,
        "options, variables": of_settings.option,
        "arms of an A/B": of_settings.arm,
        "arguments of commands": of_settings.command,
        "loads": of_loads.load,
        "traces": of_loads.trace,
    }
    counts = [settings // len(kinds) + (number < settings % len(kinds)) for number in range(len(kinds))]
    found = [
        endings.run(kind, attempt, count, seed, beat)
        for (kind, attempt), count in zip(kinds.items(), counts, strict=True)
    ]
    if artifacts:
        of_artifacts = artifact_inputs.Inputs(_folder(scratch / "outputs"))
        found.append(endings.run("artifacts", of_artifacts.artifact, artifacts, seed, beat))
    return found


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


if __name__ == "__main__":
    main()
