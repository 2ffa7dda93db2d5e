"""How often the verdicts are right, on simulated runs whose truth is known. See README.md."""

from __future__ import annotations

import json
import platform
import sys
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
    default=500,
    help="Of each row of a family of one, of the main A/A rows and of the power bar; others have a half or a third.",
)
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
def main(trials: int, seed: int, out: Path | None) -> None:
    """Shares of right and wrong verdicts on simulated pairs, in percent with 95 % intervals.

    Exit code 1 if a bar is missed.
    """
    planned = scenarios(trials)
    tallies: list[Tally] = []
    with click.progressbar(length=sum(map(_cost, planned)), label="verdicts", file=sys.stderr) as progress:
        for scenario in planned:
            tallies.append(simulate(scenario, seed))
            progress.update(_cost(scenario))
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
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(MISSED if any(bar.verdict == "MISSED" for bar in judged) else NONE_MISSED)


def _cost(scenario: Scenario) -> int:
    """For the progress line: the sign flips of 12 pairs and more cost the most."""
    return scenario.trials * scenario.family * (3 if scenario.pairs < 10 else 5 if scenario.pairs < 12 else 13)


if __name__ == "__main__":
    main()
