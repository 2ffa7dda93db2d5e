"""The simulated capacity of candidates: rates doubled and halved, then narrowed down, until the crossing is known."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from context_research.backends.registry import backend_of
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure import knee
from context_research.measure.capacity import Crossing, crossed
from context_research.models.model import Model
from context_research.planning.candidates import Candidate
from context_research.serving import build, preflight
from context_research.settings.schema import Settings
from context_research.workload.case import cases

REQUESTS = 200
"""That are due in a try's window, on average."""
FACTOR = 2**0.5
"""Between a try's rate and the next, until a knee lies between two. Neighbours' knees are near each other."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a candidate carries: within each of the settings' SLOs; none, with the reason, where it can't run at all."""

    candidate: Candidate
    capacities: tuple[Crossing, ...] = ()
    """In requests per second and device."""
    problem: str = ""


def search(settings: Settings, model: Model, series: Sequence[Sequence[Candidate]], jobs: int) -> Iterator[list[Found]]:
    """What each series of neighbours carries, as they end, `jobs` at a time in processes of their own."""
    # Not forked: a process that has started simulated engines has threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for ended in as_completed([pool.submit(_series, settings, model, list(each)) for each in series]):
            yield ended.result()


def _built_up(settings: Settings) -> Settings:
    """With a warm-up no longer than a request that just meets its limits takes: by then the load has built up."""
    workload, output = settings.workload, settings.workload.output_tokens
    takes = [
        slo.ttft + slo.tpot * output if slo.ttft and slo.tpot and isinstance(output, int) else workload.warmup_s
        for slo in settings.slos
    ]
    warmup = min(workload.warmup_s, max(takes))
    return settings.model_copy(update={"workload": workload.model_copy(update={"warmup_s": warmup})})


def _series(settings: Settings, model: Model, candidates: Sequence[Candidate]) -> list[Found]:
    """One after the other, each search beginning where its neighbour's ended."""
    logging.disable(logging.WARNING)  # vLLM's and aiconfigurator's, of every engine anew
    found: list[Found] = []
    settings, start = _built_up(settings), settings.workload.rate or 1.0
    for candidate in candidates:
        chosen = candidate.settings(settings)
        try:
            preflight.check_run(chosen, cases(chosen), lambda _: model)
            capacities = capacity(chosen, model, start)
        except (UsageProblem, EngineFailure) as problem:
            found.append(Found(candidate, problem=str(problem)))
            continue
        found.append(Found(candidate, tuple(capacities)))
        # Half as many more prompts again are computed by half as many more engines, unless decode ends it.
        more = (candidate.prefill_engines + 1) / candidate.prefill_engines if chosen.serving.handoff else 1.0
        start = max(each.rate for each in capacities) * len(chosen.devices or ()) * more
    return found


def capacity(settings: Settings, model: Model, start: float) -> list[Crossing]:
    """Within each SLO. `start`: the first rate that is tried, in requests per second, all devices together.

    Where a limit is missed at every rate, or met at every one, it is a bound.
    """
    backend = backend_of(settings)
    seen: dict[float, knee.Try] = {}
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend, model, Path(logs))
        topology.start()
        try:

            def attained(rate: float) -> Sequence[float]:
                if rate not in seen:
                    seen[rate] = knee.attempt(settings, model, topology, rate, REQUESTS / rate)
                return seen[rate].shares

            return [
                _within(attained, seen, number, slo.attainment, start, backend.serving_devices)
                for number, slo in enumerate(settings.slos)
            ]
        finally:
            topology.close()


def _within(
    attained: Callable[[float], Sequence[float]],
    seen: dict[float, knee.Try],
    number: int,
    target: float,
    start: float,
    devices: int,
) -> Crossing:
    with suppress(UsageProblem):  # no knee: what was seen says on which side
        knee.search(lambda rate: [attained(rate)[number]], [target], start, FACTOR)
    rates = sorted(seen)
    tries = [seen[rate] for rate in rates]
    found = crossed(rates, [each.shares[number] for each in tries], [each.due for each in tries], target)
    return Crossing(found.rate / devices, found.bound)
