"""How often the test of overload errs: simulated windows of loads below and above what an engine carries.

Two loads: `queue`, one request at a time as in queueing.py, whose backlog wanders most; `chats`, continuous batching of
prompts of some hundred tokens. What the engine carries is measured first, at three times its guessed rate.

CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND=1 python benchmarks/studies/load/overload.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.measure import overload
from context_research.measure.case import measure
from context_research.measure.repeat import Repeat
from context_research.models import hub
from context_research.serving import build
from context_research.settings.messages import with_values
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer
from context_research.workload.arrivals import timed
from context_research.workload.case import cases

LOADS: Mapping[str, Mapping[str, object]] = {
    "queue": {
        "engine.max_num_seqs": 1,
        "engine.max_num_batched_tokens": 512,
        "workload.prompt_lengths": [512],
        "workload.output_tokens": 1,
    },
    "chats": {
        "engine.max_num_seqs": 32,
        "workload.prompt_lengths": (),
        "workload.classes": {"chat": {"prompt": {"p50": 400, "p90": 1500, "max": 4000}}},
        "workload.output_tokens": 16,
    },
}
SHARES = (0.8, 0.9, 0.95, 1.05, 1.1, 1.2)
_GUESS = {"queue": 100.0, "chats": 60.0}
"""Requests a second, below or about what one simulated H200 carries of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """Of `windows` at `share` of what the engine carries, how many were called overloaded; by threes: the majority."""

    load: str
    cv: float
    share: float
    requests: float
    windows: int
    called: int
    threes: int
    called_by_threes: int


@click.command()
@click.option("--load", "loads", multiple=True, type=click.Choice(list(LOADS)), default=tuple(LOADS), show_default=True)
@click.option(
    "--share", "shares", multiple=True, type=float, default=(0.8, 0.9, 0.95, 1.05, 1.1, 1.2), show_default=True
)
@click.option("--requests", default=400, show_default=True, help="due in a window, on average")
@click.option("--windows", default=200, show_default=True, help="at each share")
@click.option("--cv", default=1.0, show_default=True, help="of the gaps")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="keep the figures in this file too")
def main(
    loads: Sequence[str],
    shares: Sequence[float],
    requests: int,
    windows: int,
    cv: float,
    seed: int,
    file: Path | None,
) -> None:
    """Print how many windows were called overloaded."""
    found = []
    for name in loads:
        for each in study(name, shares, requests, windows, cv, seed):
            found.append(each)
            click.echo(
                f"{name} CV {cv:g}, {each.share:.0%} of capacity, {each.requests:.0f} requests: {each.called} of "
                f"{each.windows} windows overloaded; cases of three repeats: {each.called_by_threes} of {each.threes}"
            )
    if file is not None:
        file.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")


def study(
    load: str, shares: Sequence[float], requests: int = 400, windows: int = 200, cv: float = 1.0, seed: int = 0
) -> list[Found]:
    """Serve one of LOADS at each share of what the engine carries."""
    asked = {
        "backend": "simulated",
        "device_profile": "h200",
        "seed": seed,
        "workload.concurrency": (),
        "workload.arrivals": "open",
        "workload.rate": 3 * _GUESS[load],
        "workload.cv": cv,
        "workload.window_s": 10 * requests / _GUESS[load],
        "workload.request_timeout_s": 1e6,
        **LOADS[load],
    }
    chosen = resolve("e0", [Layer("overload", asked)]).settings
    [above] = _repeats(chosen, 1)
    carries = above.finished / above.seconds
    return [_at(load, share, share * carries, requests, windows, chosen) for share in shares]


def _at(load: str, share: float, rate: float, requests: int, windows: int, chosen: Settings) -> Found:
    seconds = requests / rate
    values = {"workload.rate": rate, "workload.window_s": seconds, "workload.warmup_s": seconds / 2}
    some = _repeats(with_values(chosen, values), windows)
    grown = [overload.backlog(repeat) for repeat in some]
    threes = [grown[first : first + 3] for first in range(0, len(grown) - 2, 3)]
    return Found(
        load=load,
        cv=chosen.workload.cv,
        share=share,
        requests=sum(repeat.requests for repeat in some) / len(some),
        windows=len(grown),
        called=sum(each.grew for each in grown),
        threes=len(threes),
        called_by_threes=sum(map(overload.overloaded, threes)),
    )


def _repeats(chosen: Settings, count: int) -> list[Repeat]:
    """So many windows, each of a seed of its own, one after another on one engine."""
    model = hub.resolve(chosen.model, config_only=True)
    [case] = cases(chosen)
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend_of(chosen), model, Path(logs))
        topology.start()
        try:
            return measure(case, model, topology, repeats=count, arrive=timed).repeats
        finally:
            topology.close()


if __name__ == "__main__":
    main()
