"""Measures one case: warm-up, then whole repeats, and what the engines counted meanwhile."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

from context_research.engines.loop import EventLoop
from context_research.measure import client_lag
from context_research.measure.checks import evidence
from context_research.measure.checks.evidence import Standing
from context_research.measure.metrics import Repeat
from context_research.measure.progress import Progress as Progress
from context_research.measure.result import CaseResult
from context_research.models.model import Model
from context_research.request import Request, Timeline
from context_research.serving.topology import Topology
from context_research.workload import load
from context_research.workload.arrivals import ArrivalProcess, closed
from context_research.workload.case import Case
from context_research.workload.prompts import requests


def measure(
    case: Case,
    model: Model,
    topology: Topology,
    standing: Standing | None = None,
    while_waiting: Callable[[Progress], None] = lambda _: None,
    repeats: int | None = None,
    arrive: ArrivalProcess = closed,
) -> CaseResult:
    """Measure `case` on running engines, by its own settings; `repeats` overrides theirs, `arrive` sends the requests.

    The first request that fails ends the case, with what it had. Raises UsageProblem for a kept parity reference that
    is corrupt or of something else.
    """
    settings, count = case.settings, repeats or case.settings.workload.repeats
    plans = [load.planned(case, number) for number in range(count)]
    # A pass's prompts exist before its clock starts; those of all passes together may be gigabytes.
    warmup, batch = (requests(case, model.vocabulary, repeat) for repeat in (None, 0))
    shown = f"{settings.experiment} {case.name}"
    loop = topology.backend.loop
    progress = Progress(shown, len(warmup) + sum(map(len, plans)), loop.time, loop.virtual, 1 + count)
    proof = evidence.begun(case, model, topology, standing or Standing(), batch)
    backend = topology.backend
    origin = loop.time()
    timelines = _pass(case, topology, loop, arrive, warmup, -1, progress, while_waiting)
    steady, whole = list[Repeat](), list[Repeat]()
    with proof.counting(timelines):
        for number in range(count):
            if any(timeline.error for timeline in timelines):
                break
            batch = requests(case, model.vocabulary, number) if number else batch
            proof.prime(batch)
            before = {engine.name: engine.counters.snapshot() for engine in topology.engines}
            used, began = backend.joules(), loop.time()
            passed = _pass(case, topology, loop, arrive, batch, number, progress, while_waiting, proof.lateness)
            timelines += passed
            counted = {engine.name: engine.counters.since(before[engine.name]) for engine in topology.engines}
            now = backend.joules()
            timed = settings.workload.timed
            repeat = Repeat.of(
                (timeline for timeline in passed if timeline.phase == "measured"),
                passed,
                window=_window(case, batch, passed, began) if timed else None,
                due=Counter(request.class_name for request in batch if request.phase == "measured"),
                transfers=[transfer for engine in topology.decoders for transfer in counted[engine.name].transfers],
                devices=backend.serving_devices,
                joules=None if used is None or now is None else now - used,
                slo=settings.slo,
                class_slos=settings.workload.class_slos,
                kv_usage={name: counts.kv_usage for name, counts in counted.items()} if timed else {},
            )
            steady.append(repeat)
            whole.append(repeat.with_all())
    proof.afterwards((requests(case, model.vocabulary, number) for number in range(count)), timelines)
    asked = sum(each.phase == "measured" for plan in plans for each in plan)
    checks = proof.judge(asked, timelines, steady, whole)
    return CaseResult(case, asked, steady, whole, timelines, checks, proof, origin)


def _window(case: Case, batch: Sequence[Request], passed: Sequence[Timeline], began: float) -> tuple[float, float]:
    """A timed load's window on the timelines' clock. `began`: roughly when the pass did, if nothing was sent."""
    due = {request.id: request.due or 0.0 for request in batch}
    start = min((timeline.scheduled - due[timeline.request] for timeline in passed), default=began)
    begin, end = load.window(case.settings.workload, batch)
    return start + begin, start + end


def _pass(
    case: Case,
    topology: Topology,
    loop: EventLoop,
    arrive: ArrivalProcess,
    batch: list[Request],
    repeat: int,
    progress: Progress,
    while_waiting: Callable[[Progress], None],
    lateness: list[float] | None = None,
) -> list[Timeline]:
    """Serve one batch; every timeline, in order of completion. Adds to `lateness` the event loop's."""
    timelines: list[Timeline] = []

    async def serve(request: Request, due: float) -> Timeline | None:
        progress.sent += 1
        timeline = await topology.serve(request, repeat, due)
        timelines.append(timeline)
        progress.done += 1
        progress.output_tokens += len(timeline.token_times)
        # One failed request fails the case. Where an engine hangs, waiting for every other would take hours.
        return None if timeline.error else timeline

    async def serve_all() -> None:
        async with (
            contextlib.nullcontext() if loop.virtual else client_lag.watched([] if lateness is None else lateness)
        ):
            progress.begin(batch)
            await arrive(batch, case, serve)

    topology.prepare(batch)
    with client_lag.frozen_heap():
        loop.run(serve_all(), lambda: while_waiting(progress))
    return timelines
