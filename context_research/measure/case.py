"""Measures one case: warm-up, then whole repeats, and what the engines counted meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from context_research.engines.loop import EventLoop
from context_research.measure import client_lag, metrics, utilisation, waterfall
from context_research.measure.checks import evidence
from context_research.measure.checks.evidence import Proof, Standing
from context_research.measure.checks.registry import CheckResult
from context_research.measure.metrics import Metric, Repeat
from context_research.models.model import Model
from context_research.request import Request, Timeline
from context_research.serving.topology import Topology
from context_research.workload.arrivals import ArrivalProcess, closed_loop
from context_research.workload.case import Case
from context_research.workload.prompts import requests


@dataclass(slots=True)
class Progress:
    """How far a case is, for whoever shows it; written on the event loop, read on the main thread."""

    case: str
    total: int
    done: int = 0
    output_tokens: int = 0
    started: float = field(default_factory=perf_counter)


@dataclass(slots=True)
class CaseResult:
    """One measured case.

    `repeats` hold completed requests in their windows, `whole` the same passes with ramp and drain; `timelines` every
    request that was sent, failed ones and the warm-up's too.
    """

    case: Case
    asked: int
    repeats: list[Repeat]
    whole: list[Repeat]
    timelines: list[Timeline]
    checks: list[CheckResult]
    proof: Proof
    origin: float

    @property
    def failed(self) -> list[CheckResult]:
        """Checks that failed and may not."""
        return [check for check in self.checks if check.status == "fail" and not check.allowed]

    @property
    def failure(self) -> str | None:
        """The failed checks in one line, or None where the case counts."""
        return "; ".join(f"{check.check}: {check.evidence}" for check in self.failed) or None

    @property
    def joules(self) -> float | None:
        """What the GPUs used over all passes; None where that is not known of each."""
        used = [repeat.joules for repeat in self.whole if repeat.joules is not None]
        return sum(used) if len(used) == len(self.whole) else None

    def samples(self, of: Iterable[Metric]) -> dict[str, list[float]]:
        """Every metric's samples over all repeats."""
        return _samples(of, self.repeats)

    def summary(self, of: Iterable[Metric], connector: str | None) -> dict[str, Any]:
        """The case's entry in `<experiment>_summary.json`, but for its status."""
        of = tuple(of)
        sent = [timeline for timeline in self.timelines if timeline.phase != "warmup"]
        measured = [timeline for repeat in self.repeats for timeline in repeat.timelines]
        counted, decode = self.proof.counted, self.proof.counted.get("decode")
        transfers = decode.transfers if decode else []
        return {
            "name": self.case.name,
            "params": dict(self.case.axes),
            "requests": {
                "asked": self.asked,
                "finished": sum(timeline.complete for timeline in sent if timeline.phase == "measured"),
                "around": sum(timeline.phase != "measured" for timeline in sent),
            },
            "tokens": {
                "prompt": sum(timeline.prompt_tokens for timeline in sent),
                "output": sum(len(timeline.token_times) for timeline in sent),
                "prompt_cached": sum(t.prefill_cached_tokens or 0 for t in sent)
                + (decode.prompt_cached if decode else 0),
                "prompt_computed_on_decode": sum(t.computed_on_decode or 0 for t in sent) if decode else None,
                "prompt_external": decode.prompt_external if decode else 0,
            },
            "handoff": {
                "connector": connector,
                "transfers": len(transfers),
                "failed": sum(self.proof.faults.values()),
                "faults": self.proof.faults,
                "bytes": sum(size for _, size in transfers),
                "copy_ceiling": self.proof.standing.ceiling,
            },
            "preemptions": sum(counters.preemptions for counters in counted.values()),
            "kv_usage_max": {role: counters.kv_usage_max for role, counters in counted.items()},
            "metrics": _summarized(of, self.repeats),
            "whole": {
                "metrics": _summarized(of, self.whole),
                "seconds": sum(repeat.seconds for repeat in self.whole),
            },
            "simulation": self._simulation(),
            "roles": utilisation.summarize(self.repeats),
            "joules": self.joules,
            "client": {
                "lag": self.proof.client_lag and self.proof.client_lag.as_json(),
                "self_test": self.proof.standing.self_test and self.proof.standing.self_test.as_json(),
            },
            "chunked_share": metrics.chunked_share(measured),
            "repeats": [
                {
                    "seconds": repeat.seconds,
                    "steady_seconds": repeat.steady_seconds,
                    "finished": len(repeat.timelines),
                    "output_tokens": repeat.output_tokens,
                    "metrics": _summarized(of, [repeat]),
                }
                for repeat in self.repeats
            ],
            "waterfall": waterfall.summarize(measured),
            "validity": [check.as_json() for check in self.checks],
            "checks_s": {
                "case": self.proof.seconds,
                "parity_reference": self.proof.reference_s,
                "run": self.proof.standing.seconds,
            },
        }

    def _simulation(self) -> dict[str, int] | None:
        """Steps of the simulated engines; None where they were real."""
        if self.proof.topology.backend.measured:
            return None
        counted = self.proof.counted.values()
        return {"steps": sum(c.steps for c in counted), "extrapolated": sum(c.extrapolated for c in counted)}


def _samples(of: Iterable[Metric], repeats: Sequence[Repeat]) -> dict[str, list[float]]:
    return {metric.name: [value for repeat in repeats for value in metric.samples(repeat)] for metric in of}


def _summarized(of: Sequence[Metric], repeats: Sequence[Repeat]) -> dict[str, Any]:
    samples = _samples(of, repeats)
    return {
        metric.name: metrics.summarize(samples[metric.name], metric.unit)
        | {"lower_is_better": metric.lower_is_better, "statistic": metric.statistic}
        for metric in of
    }


def measure(
    case: Case,
    model: Model,
    topology: Topology,
    standing: Standing | None = None,
    while_waiting: Callable[[Progress], None] = lambda _: None,
    repeats: int | None = None,
    arrive: ArrivalProcess = closed_loop,
) -> CaseResult:
    """Measure `case` on running engines, by its own settings; `repeats` overrides theirs, `arrive` sends the requests.

    The first request that fails ends the case, with what it had. Raises UsageProblem for a kept parity reference that
    is corrupt or of something else.
    """
    settings, count = case.settings, repeats or case.settings.workload.repeats
    # All prompts exist before the clock starts.
    warmup, *batches = (requests(case, model.vocabulary, repeat) for repeat in (None, *range(count)))
    progress = Progress(case.name, sum(map(len, (warmup, *batches))))
    proof = evidence.begun(case, model, topology, standing or Standing(), batches[0])
    backend = topology.backend
    loop = backend.loop
    origin = loop.time()
    timelines = _pass(case, topology, loop, arrive, warmup, -1, progress, while_waiting)
    steady, whole = list[Repeat](), list[Repeat]()
    with proof.counting(timelines):
        for number, batch in enumerate(batches):
            if any(timeline.error for timeline in timelines):
                break
            proof.prime(batch)
            seen, used = [len(engine.counters.transfers) for engine in topology.decoders], backend.joules()
            passed = _pass(case, topology, loop, arrive, batch, number, progress, while_waiting, proof.lateness)
            timelines += passed
            pairs = zip(topology.decoders, seen, strict=True)
            transfers = [transfer for engine, count in pairs for transfer in engine.counters.transfers[count:]]
            more = {
                "transfers": tuple(transfers),
                "devices": backend.serving_devices,
                "joules": None if used is None or (now := backend.joules()) is None else now - used,
                "slo": settings.slo,
            }
            steady.append(Repeat.of((t for t in passed if t.phase == "measured"), passed, **more))
            whole.append(Repeat.of(passed, passed, **more))
    asked = sum(request.phase == "measured" for batch in batches for request in batch)
    checks = proof.judge(asked, timelines, steady, whole)
    return CaseResult(case, asked, steady, whole, timelines, checks, proof, origin)


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
            await arrive(batch, case.concurrency, serve)

    topology.prepare(batch)
    with client_lag.frozen_heap():
        loop.run(serve_all(), lambda: while_waiting(progress))
    return timelines
