"""Whether the load that is sent is the load that was asked for: waits in a queue whose mean is known.

A simulated engine that serves one request at a time, each for the same time S, at Poisson arrivals of rate λ is an
M/D/1 queue: the mean wait is ρS / 2(1 − ρ), with ρ = λS (Pollaczek 1930, Khinchine 1932).

CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND=1 python benchmarks/studies/load/queueing.py
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.measure.case import measure
from context_research.models import hub
from context_research.models.model import Model
from context_research.request import Timeline
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.messages import with_values
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer
from context_research.workload.arrivals import closed, timed
from context_research.workload.case import cases

PROMPT = 512
"""Tokens of every prompt, and of every batch: with one request at a time, each is one step."""
_REPEATS = 10


@dataclass(frozen=True, slots=True)
class Found:
    """Of one load: seconds, and shares by which the mean wait is off.

    `recursion` is the mean wait that Lindley's recursion gives for the very moments that were drawn.
    """

    load: float
    requests: int
    service: float
    wait: float
    formula: float
    recursion: float

    @property
    def error(self) -> float:
        return self.wait / self.formula - 1

    @property
    def error_of_serving(self) -> float:
        """What of the error is not the drawn arrivals' luck."""
        return self.wait / self.recursion - 1


@click.command()
@click.option("--load", "loads", multiple=True, type=float, default=(0.5, 0.6, 0.7, 0.8), show_default=True, help="ρ")
@click.option("--requests", default=100_000, show_default=True, help="measured at each load, over ten repeats")
@click.option("--device-profile", default="h200", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="keep the figures in this file too")
def main(loads: Sequence[float], requests: int, device_profile: str, seed: int, file: Path | None) -> None:
    """Print the mean wait at each load beside the formula's."""
    found = study(loads, requests, device_profile, seed)
    click.echo(table(found))
    if file is not None:
        file.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")


def study(loads: Sequence[float], requests: int, device_profile: str = "h200", seed: int = 0) -> list[Found]:
    """Measure each load on one engine."""
    asked = {
        "backend": "simulated",
        "device_profile": device_profile,
        "seed": seed,
        "engine.max_num_seqs": 1,
        "engine.max_num_batched_tokens": PROMPT,
        "workload.prompt_lengths": [PROMPT],
        "workload.concurrency": [1],
        "workload.output_tokens": 1,
        "workload.requests": 50,
        "workload.repeats": 1,
        "workload.request_timeout_s": 1e6,
    }
    chosen = resolve("e0", [Layer("queueing", asked)]).settings
    model = hub.resolve(chosen.model, config_only=True)
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend_of(chosen), model, Path(logs))
        topology.start()
        try:
            alone = _measured(chosen, model, topology)
            busy = _measured(with_values(chosen, {"workload.concurrency": [8]}), model, topology)
            base = float(np.mean([each.token_times[0] - each.scheduled for each in alone]))
            # Of an engine that is never idle: the time from one request's end to the next one's.
            service = float(np.median(np.diff(sorted(each.token_times[0] for each in busy))))
            return [_at(load, requests, service, base, chosen, model, topology) for load in loads]
        finally:
            topology.close()


def _at(
    load: float, requests: int, service: float, base: float, chosen: Settings, model: Model, topology: Topology
) -> Found:
    """One load. `base`: the TTFT of a request that meets an idle engine; what is over it was waited for."""
    rate = load / service
    values = {
        "workload.arrivals": "open",
        "workload.concurrency": (),
        "workload.rate": rate,
        "workload.repeats": _REPEATS,
        "workload.window_s": requests / _REPEATS / rate,
        "workload.warmup_s": 200 * service / (1 - load) ** 2,  # several times what a queue needs to forget its start
    }
    timelines = _measured(with_values(chosen, values), model, topology)
    measured = [each for each in timelines if each.phase == "measured"]
    wait = np.mean([each.token_times[0] - each.scheduled - base for each in measured])
    drawn = [_recursion([each for each in timelines if each.repeat == repeat], service) for repeat in range(_REPEATS)]
    return Found(
        load=load,
        requests=len(measured),
        service=service,
        wait=float(wait),
        formula=load * service / (2 * (1 - load)),
        recursion=math.fsum(map(math.fsum, drawn)) / len(measured),
    )


def _recursion(timelines: Sequence[Timeline], service: float) -> list[float]:
    """The measured requests' waits by Lindley's recursion: each waits for what the one before it had left."""
    waits, wait, before = [], 0.0, -math.inf
    for each in sorted(timelines, key=lambda timeline: timeline.scheduled):
        wait = max(0.0, wait + service - (each.scheduled - before))
        before = each.scheduled
        if each.phase == "measured":
            waits.append(wait)
    return waits


def _measured(settings: Settings, model: Model, topology: Topology) -> list[Timeline]:
    """What one case's requests of repeats saw. Raises ClickException: one failed."""
    [case] = cases(settings)
    arrive = timed if settings.workload.timed else closed
    result = measure(case, model, topology, arrive=arrive)
    if result.failure:
        raise click.ClickException(result.failure)
    return [each for each in result.timelines if each.phase != "warmup"]


def table(found: Sequence[Found]) -> str:
    lines = [
        "| ρ | requests | S | mean wait | formula | off by | off Lindley's recursion by |",
        "| -- | -- | -- | -- | -- | -- | -- |",
    ]
    lines += [
        f"| {each.load:g} | {each.requests:,} | {each.service * 1e3:.3f} ms | {each.wait * 1e3:.3f} ms "
        f"| {each.formula * 1e3:.3f} ms | {each.error:+.1%} | {each.error_of_serving:+.2%} |"
        for each in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
