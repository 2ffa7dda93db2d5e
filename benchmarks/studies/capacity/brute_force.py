"""Is a session's capacity right? Beside a brute-force sweep of rates on the same simulated GPUs. See README.md."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
from tabulate import tabulate

from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.measure.capacity import Crossing, crossing
from context_research.measure.knee import attempt
from context_research.models import hub
from context_research.records.summary import PointRecord
from context_research.serving import build
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer

ARMS = ("aggregated-2x", "disaggregated-1p1d")
_LONGER = 10
"""A point of the sweep, in windows of a session's."""
_FINE = 1.01
"""Between two rates of the sweep."""
_REACH = 5
"""Points of it on either side of the sessions' median, and as many more where the truth lies beyond."""
_BAR = 0.03
_OTHERS = 10_000
"""The sweep's seed: arrivals that no session had."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--seeds", type=click.IntRange(1), default=10, help="Sessions of each arm.")
@click.option("--jobs", type=click.IntRange(1), default=2, help="Processes.")
@click.option("--device-profile", default="h200")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
def main(seeds: int, jobs: int, device_profile: str, out: Path | None) -> None:
    """E1 as shipped: sessions' capacities beside those of rates every 1 % in windows ten times as long."""
    rows = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for arm in ARMS:
            sessions = list(pool.map(partial(_session, arm, device_profile), range(seeds)))
            click.echo(f"{arm}: {seeds} sessions", err=True)
            swept: dict[int, Point] = {}
            for number, slo in enumerate(_settings(arm, device_profile, 0).slos):
                found = [some[number] for some in sessions]
                truth = _swept(pool, arm, device_profile, [each.rate for each in found], number, slo.attainment, swept)
                errors = [100 * math.log(each.rate / truth) for each in found]
                row = {
                    "arm": arm,
                    "within": ", ".join(f"{name} {limit:g} s" for name, limit in slo.limits.items()),
                    "by the sweep": truth,
                    "bracketed": f"{sum(each.bound == 'exact' for each in found)} of {seeds}",
                    "mean error %": sum(errors) / len(errors),
                    "worst error %": max(errors, key=abs),
                    f"within {_BAR:.0%}": f"{sum(abs(each) <= 100 * _BAR for each in errors)} of {seeds}",
                    "errors %": [round(each, 2) for each in errors],
                }
                click.echo(json.dumps(row), err=True)
                rows.append(row)
    shown = [{key: value for key, value in row.items() if key != "errors %"} for row in rows]
    click.echo(tabulate(shown, headers="keys", tablefmt="github", floatfmt=".2f"))
    if out is not None:
        out.write_text(json.dumps({"device_profile": device_profile, "rows": rows}, indent=1) + "\n")


def _swept(
    pool: ProcessPoolExecutor,
    arm: str,
    device_profile: str,
    sessions: Sequence[float],
    number: int,
    target: float,
    swept: dict[int, Point],
) -> float:
    """The capacity by the sweep, in requests per second of both GPUs. Adds to `swept`: power of _FINE -> its point."""
    centre = round(math.log(statistics.median(sessions)) / math.log(_FINE))
    low, high = centre - _REACH, centre + _REACH
    while True:
        new = [power for power in range(low, high + 1) if power not in swept]
        points = pool.map(partial(_point, arm, device_profile), [_FINE**power for power in new])
        swept |= dict(zip(new, points, strict=True))
        powers = range(low, high + 1)
        found = _crossed([swept[power] for power in powers], number, target)
        if found.bound == "exact":
            return found.rate
        low, high = (low - _REACH, high) if found.bound == "at most" else (low, high + _REACH)


Point = tuple[PointRecord, ...]
"""One rate, of both GPUs together: within each SLO."""


def _session(arm: str, device_profile: str, seed: int) -> list[Crossing]:
    """A session's capacity within each SLO, requests per second of both GPUs."""
    settings = _settings(arm, device_profile, seed)
    rates = [float(rate) for rate in settings.axes["workload.rate"]]
    points = [_served(settings, rate, settings.workload.window_s or 0.0) for rate in rates]
    return [_crossed(points, number, slo.attainment) for number, slo in enumerate(settings.slos)]


def _point(arm: str, device_profile: str, rate: float) -> Point:
    """A point of the sweep, with arrivals that no session had."""
    settings = _settings(arm, device_profile, _OTHERS)
    return _served(settings, rate, _LONGER * (settings.workload.window_s or 0.0))


def _crossed(points: Sequence[Point], number: int, target: float) -> Crossing:
    found = crossing(sorted((each[number] for each in points), key=lambda point: point.rate), target)
    assert found is not None
    return found


def _settings(arm: str, device_profile: str, seed: int) -> Settings:
    asked = {"backend": "simulated", "device_profile": device_profile, "serving": arm, "seed": seed}
    return resolve("e1", [Layer("sweep", asked)]).settings


def _served(settings: Settings, rate: float, window_s: float) -> Point:
    model = hub.resolve(settings.model, config_only=True)
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend_of(settings), model, Path(logs))
        topology.start()
        try:
            tried = attempt(settings, model, topology, rate, window_s)
        finally:
            topology.close()
    return tuple(
        PointRecord(case="", rate=tried.rate, due=tried.due, met=met, overloaded=tried.overloaded) for met in tried.met
    )


if __name__ == "__main__":
    main()
