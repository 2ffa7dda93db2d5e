"""How often the verdicts are right, on simulated runs whose truth is known. See README.md."""

from __future__ import annotations

import json
import platform
import sys
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import click
import numpy as np
import scipy

import tables
from scenarios import Scenario, scenarios
from tallies import Tally, bars, simulate

NONE_MISSED, MISSED = 0, 1
"""Exit codes."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--trials",
    type=click.IntRange(6),
    default=3000,
    help="Of most rows; some have four times as many, some a third.",
)
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--jobs", type=click.IntRange(1), default=1, help="Rows that are simulated at the same time.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
def main(trials: int, seed: int, jobs: int, out: Path | None) -> None:
    """Shares of right and wrong verdicts on simulated pairs, in percent with 95 % intervals.

    Exit code 1 if a bar is missed.
    """
    planned = list(scenarios(trials))
    tallies: list[Tally] = []
    with (
        click.progressbar(length=sum(map(_cost, planned)), label="verdicts", file=sys.stderr) as progress,
        Pool(jobs) as pool,
    ):
        for tally in pool.imap(partial(simulate, seed=seed), planned):
            tallies.append(tally)
            progress.update(_cost(tally.scenario))
    judged = bars(tallies)
    click.echo(tables.markdown(tallies, judged))
    if out is not None:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
        results = {
            "seed": seed,
            "versions": versions,
            "bars": [bar.as_json() for bar in judged],
            "rows": [tally.as_json() for tally in tallies],
        }
        out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(MISSED if any(bar.verdict == "MISSED" for bar in judged) else NONE_MISSED)


def _cost(scenario: Scenario) -> int:
    """For the progress line."""
    return scenario.trials * scenario.family * (3 if scenario.looks else 1)


if __name__ == "__main__":
    main()
