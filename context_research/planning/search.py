"""The simulated capacity of candidates: all of them roughly, then the leaders in longer windows.

A short window flatters, as a backlog takes its time to build up. So the leaders are known once none of them is only
known roughly: whoever stands behind them was flattered, too.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of
from context_research.engines.batch import Batch
from context_research.engines.simulated import profiles
from context_research.engines.simulated.step_time import model_of
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure import knee
from context_research.measure.capacity import Crossing, crossed
from context_research.models.model import Model
from context_research.planning.candidates import Candidate
from context_research.serving import build, preflight
from context_research.settings.schema import Settings
from context_research.workload.case import Case, cases
from context_research.workload.load import planned

LEADERS = 2
"""Topologies within each SLO that are known well in the end."""
_FULL = 0.7
"""Of the rate at which prefill engines could compute prompts without a pause: about what is carried within limits."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a try is: so many requests are due in its window, or it lasts so long; `warmup` of a whole one.

    `factor` lies between a try's rate and the next, until a knee lies between two.
    """

    requests: int
    window_s: float
    warmup: float
    factor: float


ROUGH, WELL = Effort(100, 0.0, 0.5, 1.3), Effort(400, 30.0, 1.0, 1.14)
_FLATTERED = 0.88
"""Of a rough figure, where a search that takes longer begins: overloaded tries take the most time."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a candidate carries: within each of the settings' SLOs; none, with the reason, where it can't run at all."""

    candidate: Candidate
    capacities: tuple[Crossing, ...] = ()
    """In requests per second and device."""
    well: bool = False
    """By long windows."""
    problem: str = ""


def search(
    settings: Settings,
    model: Model,
    series: Iterable[Sequence[Candidate]],
    jobs: int,
    say: Callable[[str], None] = lambda _: None,
) -> list[Found]:
    """What each candidate carries, `jobs` of the `series` of neighbours at a time in processes of their own.

    Raises UsageProblem: a process was killed.
    """
    try:
        return _searched(settings, model, series, jobs, say)
    except BrokenExecutor:
        raise UsageProblem(
            "a simulating process was killed, for its memory perhaps: fewer at a time (--jobs)"
        ) from None


def _searched(
    settings: Settings, model: Model, series: Iterable[Sequence[Candidate]], jobs: int, say: Callable[[str], None]
) -> list[Found]:
    found: dict[tuple[str, int], Found] = {}
    # Not forked: a process that has started simulated engines has threads.
    # vLLM and aiconfigurator would warn of every engine anew.
    with ProcessPoolExecutor(jobs, get_context("spawn"), logging.disable, (logging.WARNING,)) as pool:
        for ended in as_completed([pool.submit(_roughly, settings, model, list(each)) for each in series]):
            some = ended.result()
            found |= {each.candidate.key: each for each in some}
            say(f"{some[0].candidate.name}: {len(found)} are known roughly")
        while leading := [each for each in leaders(found.values()) if not each.well]:
            for known in as_completed([pool.submit(_well, settings, model, each) for each in leading]):
                better = known.result()
                found[better.candidate.key] = better
                say(f"{better.candidate.name}, chunks of {better.candidate.chunk}: known well")
    return list(found.values())


def leaders(found: Iterable[Found]) -> list[Found]:
    """Within each SLO the topologies that carry most, each with the chunk size that is best.

    Short windows choose the chunk size: once one of a topology is known well, its others are left at that.
    """
    able, leading = [each for each in found if each.capacities], dict[tuple[str, int], Found]()
    for number in range(max((len(each.capacities) for each in able), default=0)):
        exact = [each for each in able if each.capacities[number].bound == "exact"]
        known = {each.candidate.name for each in exact if each.well}
        exact = [each for each in exact if each.well or each.candidate.name not in known]
        best: dict[str, Found] = {}
        for each in sorted(exact, key=lambda each, n=number: -each.capacities[n].rate):  # type: ignore[misc]
            best.setdefault(each.candidate.name, each)
        leading |= {each.candidate.key: each for each in list(best.values())[:LEADERS]}
    return list(leading.values())


def _roughly(settings: Settings, model: Model, candidates: Sequence[Candidate]) -> list[Found]:
    """One after the other, each search beginning where its neighbour's ended."""
    found: list[Found] = []
    start: float | None = None
    for candidate in candidates:
        found.append(_one(candidate, settings, model, start, ROUGH))
        start = _rate(found[-1]) or start
    return found


def _rate(found: Found) -> float | None:
    """The highest that it carries, of all devices together; a bound says nothing of where to look."""
    rates = [each.rate for each in found.capacities if each.bound == "exact"]
    return max(rates) * found.candidate.devices if rates else None


def _well(settings: Settings, model: Model, rough: Found) -> Found:
    rate = _rate(rough)
    found = _one(rough.candidate, settings, model, rate and rate * _FLATTERED, WELL)
    return replace(found, well=True)


def _one(candidate: Candidate, settings: Settings, model: Model, start: float | None, effort: Effort) -> Found:
    chosen = candidate.settings(settings)
    try:
        preflight.check_run(chosen, cases(chosen), lambda _: model)
        found = capacity(chosen, model, start or _guess(chosen, model), effort)
    except (UsageProblem, EngineFailure) as problem:
        return Found(candidate, problem=str(problem))
    except Exception as error:  # of one candidate: the others are known all the same
        return Found(candidate, problem=f"{type(error).__name__}: {error}")
    return Found(candidate, tuple(found))


def _guess(settings: Settings, model: Model) -> float:
    """A rate near the knee, of all devices together: from how long its engines take for a prompt of the mean length."""
    placements = [placement for placement in backend_of(settings).placements if placement.spec.role != "decode"]
    steps = model_of(profiles.load(str(settings.device_profile)), model, placements[0])
    # Of a case that is long enough to have all classes.
    workload = settings.workload.model_copy(update={"window_s": 100 / (settings.workload.rate or 1.0)})
    some = planned(Case({}, settings.model_copy(update={"workload": workload, "axes": {}})), 0)
    tokens = sum(each.prompt_tokens for each in some) // len(some)
    chunk = settings.engine.max_num_batched_tokens or tokens
    parts = [(min(chunk, tokens - before), before) for before in range(0, tokens, chunk)]
    return _FULL * len(placements) / sum(steps.of(Batch.of([part])).seconds for part in parts)


def capacity(settings: Settings, model: Model, start: float, effort: Effort) -> list[Crossing]:
    """Within each SLO. `start`: the first rate that is tried, in requests per second, all devices together.

    Where a limit is missed at every rate, or met at every one, it is a bound.
    """
    chosen, backend = _built_up(settings, effort), backend_of(settings)
    seen: dict[float, knee.Try] = {}
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend, model, Path(logs))
        topology.start()
        try:

            def attained(rate: float) -> Sequence[float]:
                if rate not in seen:
                    window = max(effort.requests / rate, effort.window_s)
                    seen[rate] = knee.attempt(chosen, model, topology, rate, window)
                return seen[rate].shares

            return [
                _within(attained, seen, number, slo.attainment, start, effort.factor, backend)
                for number, slo in enumerate(settings.slos)
            ]
        finally:
            topology.close()


def _built_up(settings: Settings, effort: Effort) -> Settings:
    """With a warm-up no longer than a request that just meets its limits takes: by then the load has built up."""
    workload, output = settings.workload, settings.workload.output_tokens
    takes = [
        slo.ttft + slo.tpot * output
        if slo.ttft and slo.tpot and isinstance(output, int) and not workload.classes
        else workload.warmup_s
        for slo in settings.slos
    ]
    warmup = min(workload.warmup_s, max(takes)) * effort.warmup
    return settings.model_copy(update={"workload": workload.model_copy(update={"warmup_s": warmup})})


def _within(
    attained: Callable[[float], Sequence[float]],
    seen: dict[float, knee.Try],
    number: int,
    target: float,
    start: float,
    factor: float,
    backend: Backend,
) -> Crossing:
    with suppress(knee.NoKnee):  # what was seen says on which side
        knee.search(lambda rate: [attained(rate)[number]], [target], start, factor)
    # By the rates that were asked for: of a hundred requests those that came say little.
    rates = sorted(rate for rate, tried in seen.items() if tried.due)
    if not rates:
        raise UsageProblem("no request was due in any window: a higher workload.rate to begin with")
    tries = [seen[rate] for rate in rates]
    found = crossed(rates, [each.shares[number] for each in tries], [each.due for each in tries], target)
    return Crossing(found.rate / backend.serving_devices, found.bound)
