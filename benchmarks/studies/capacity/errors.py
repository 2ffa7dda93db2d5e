"""How far a session's capacity is off, and how often the verdict on capacities is right. See README.md."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from context_research.compare.statistics import Pairs, decide
from queue_sessions import Plan, capacities, knees, truth

_REQUESTS = (50, 100, 200, 400, 1000)
_EFFECTS = (1.0, 1.05, 1.1, 1.2)
_OUTCOMES = ("better", "worse", "equivalent", "undecided")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--trials", type=click.IntRange(10), default=1000, help="Sessions of each row, and A/Bs.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
def main(trials: int, seed: int, out: Path | None) -> None:
    """Errors of capacity by window, and false alarms and power of its verdict, on a queue with a known capacity."""
    errors = [_error(requests, trials, seed) for requests in _REQUESTS]
    verdicts = [
        _verdicts(Plan(requests, noise), pairs, effect, trials, seed)
        for requests in (100, 400)
        for noise in (0.01, 0.03)
        for pairs in (6, 12)
        for effect in _EFFECTS
    ]
    click.echo(tabulate(errors, headers="keys", tablefmt="github", floatfmt=".1f") + "\n")
    click.echo(tabulate(verdicts, headers="keys", tablefmt="github", floatfmt=".1f"))
    if out is not None:
        out.write_text(json.dumps({"seed": seed, "errors": errors, "verdicts": verdicts}, indent=1) + "\n")


def _error(requests: int, trials: int, seed: int) -> dict[str, float]:
    """Of one session, and of the geometric mean of six, in percent of the true capacity."""
    plan = Plan(requests)
    logs = 100 * np.log(capacities(plan, knees(plan, trials, seed), 1.0, seed, seed) / truth())
    known = logs[np.isfinite(logs)]
    six = known[: len(known) // 6 * 6].reshape(-1, 6).mean(axis=1)
    return {
        "requests in a window": requests,
        "bias %": float(known.mean()),
        "sd of one session %": float(known.std()),
        "sd of six %": float(six.std()),
        "not bracketed %": 100 * float(np.mean(~np.isfinite(logs))),
    }


def _verdicts(plan: Plan, pairs: int, effect: float, trials: int, seed: int) -> dict[str, float]:
    """A/Bs of two servers, one `effect` times as fast, in percent of those whose grids bracket both knees."""
    around = knees(plan, trials, seed) * np.sqrt(effect)
    baseline, candidate = (
        np.stack(
            [capacities(plan, around, speed, seed + pair, 2 * (seed + pair) + arm) for pair in range(pairs)], axis=1
        )
        for arm, speed in enumerate((1.0, effect))
    )
    bracketed = np.isfinite(baseline).all(axis=1) & np.isfinite(candidate).all(axis=1)
    outcomes: list[str | None] = []
    for one, other in zip(baseline[bracketed].tolist(), candidate[bracketed].tolist(), strict=True):
        [verdict] = decide([Pairs("", "capacity", "mean", "1/s", False, tuple(one), tuple(other))])
        outcomes.append(verdict.outcome)
    share = {name: 100 * outcomes.count(name) / max(1, len(outcomes)) for name in _OUTCOMES}
    return {
        "requests in a window": plan.requests,
        "noise %": 100 * plan.noise,
        "pairs": pairs,
        "candidate carries %": 100 * (effect - 1),
        **share,
        "A/Bs": len(outcomes),
    }


if __name__ == "__main__":
    main()
