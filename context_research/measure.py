"""Measures one case: warm-up, then whole repeats, and what the engines counted meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from context_research import metrics, validity, waterfall
from context_research.devices import run_devices
from context_research.engines.base import Counters, Request
from context_research.eventloop import session_loop
from context_research.metrics import Metric, Repeat
from context_research.models import Model
from context_research.serving.base import Topology
from context_research.settings import Settings
from context_research.timeline import Timeline
from context_research.validity import Check
from context_research.workload.arrivals import closed_loop
from context_research.workload.prompts import Case, requests


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
    """One measured case. `repeats` hold only completed requests; `timelines` all of them, failed ones too."""

    case: Case
    asked: int
    repeats: list[Repeat]
    timelines: list[Timeline]
    checks: list[Check]
    prefill: Counters
    decode: Counters | None
    faults: Mapping[str, int]
    origin: float

    @property
    def failure(self) -> str | None:
        """The failed checks in one line, or None where every check passed."""
        failed = [f"{check.check}: {check.evidence}" for check in self.checks if check.status == "fail"]
        return "; ".join(failed) or None

    def samples(self, of: Iterable[Metric]) -> dict[str, list[float]]:
        """Every metric's samples over all repeats."""
        return {metric.name: [value for repeat in self.repeats for value in metric.samples(repeat)] for metric in of}

    def summary(self, of: Iterable[Metric], connector: str | None) -> dict[str, Any]:
        """The case's entry in `<experiment>_summary.json`, but for its status."""
        of = tuple(of)
        samples, decode = self.samples(of), self.decode
        return {
            "name": self.case.name,
            "params": {"prompt_tokens": self.case.prompt_tokens, "concurrency": self.case.concurrency},
            "requests": {"asked": self.asked, "finished": sum(timeline.complete for timeline in self.timelines)},
            "tokens": {
                "prompt": sum(timeline.prompt_tokens for timeline in self.timelines),
                "output": sum(len(timeline.token_times) for timeline in self.timelines),
                "prompt_cached": self.prefill.prompt_cached + (decode.prompt_cached if decode else 0),
                "prompt_computed_on_decode": decode.prompt_computed if decode else None,
                "prompt_external": decode.prompt_external if decode else 0,
            },
            "handoff": {
                "connector": connector,
                "transfers": len(decode.transfers) if decode else 0,
                "failed": sum(self.faults.values()),
                "faults": dict(self.faults),
                "bytes": sum(size for _, size in decode.transfers) if decode else 0,
            },
            "preemptions": self.prefill.preemptions + (decode.preemptions if decode else 0),
            "metrics": {metric.name: metrics.summarize(samples[metric.name], metric.unit) for metric in of},
            "chunked_share": metrics.chunked_share(t for repeat in self.repeats for t in repeat.timelines),
            "repeats": [
                {"seconds": repeat.seconds, "finished": len(repeat.timelines), "output_tokens": repeat.output_tokens}
                for repeat in self.repeats
            ],
            "waterfall": waterfall.summarize(t for repeat in self.repeats for t in repeat.timelines),
            "validity": [check.as_json() for check in self.checks],
        }


def measure(
    case: Case,
    settings: Settings,
    model: Model,
    topology: Topology,
    while_waiting: Callable[[Progress], None] = lambda _: None,
    repeats: int | None = None,
) -> CaseResult:
    """Measure `case` on running engines; `repeats` overrides the settings'.

    The first request that fails ends the case, with what it had.
    """
    workload, count = settings.workload, repeats or settings.workload.repeats
    if settings.seed is None:
        raise ValueError("a case needs a seed")  # the plugin has refused such a run already
    # All prompts exist before the clock starts.
    warmup, *batches = (
        requests(case, workload, settings.seed, model.vocabulary, repeat) for repeat in (None, *range(count))
    )
    progress = Progress(case.name, sum(map(len, (warmup, *batches))))
    origin = perf_counter()
    warm = _pass(case, topology, warmup, -1, progress, while_waiting)
    before = {engine.name: engine.counters.snapshot() for engine in topology.engines}
    measured: list[Repeat] = []
    timelines = [timeline for timeline in warm if timeline.error]
    if not timelines:
        for number, batch in enumerate(batches):
            repeat, passed = _repeat(case, topology, batch, number, progress, while_waiting, settings)
            measured.append(repeat)
            timelines += passed
            if any(timeline.error for timeline in passed):
                break
    counted = {engine.role: engine.counters.since(before[engine.name]) for engine in topology.engines}
    prefill, decode = counted.get("prefill") or counted["aggregated"], counted.get("decode")
    faults = sum((Counter(counters.faults) for counters in counted.values()), Counter[str]())
    asked = count * workload.requests
    checks = [
        validity.complete(asked, timelines),
        validity.disaggregated([t for t in timelines if not t.warmup], decode, faults, model.kv_bytes_per_token),
    ]
    return CaseResult(case, asked, measured, timelines, checks, prefill, decode, faults, origin)


def _repeat(
    case: Case,
    topology: Topology,
    batch: list[Request],
    number: int,
    progress: Progress,
    while_waiting: Callable[[Progress], None],
    settings: Settings,
) -> tuple[Repeat, list[Timeline]]:
    """One measured pass, and every timeline of it."""
    transfers = topology.decoder.counters.transfers
    seen = len(transfers)
    timelines = _pass(case, topology, batch, number, progress, while_waiting)
    # The window is the requests' own: what the main thread does around them is not in it.
    repeat = Repeat(
        started=min(timeline.scheduled for timeline in timelines),
        ended=max(timeline.finished or timeline.scheduled for timeline in timelines),
        timelines=[timeline for timeline in timelines if timeline.complete],
        transfers=tuple(transfers[seen:]),
        devices=len(run_devices(settings)) if settings.device == "cuda" else 1,
        slo=settings.slo,
    )
    return repeat, timelines


def _pass(
    case: Case,
    topology: Topology,
    batch: list[Request],
    repeat: int,
    progress: Progress,
    while_waiting: Callable[[Progress], None],
) -> list[Timeline]:
    """Serve one batch in a closed loop; every timeline, in order of completion."""
    timelines: list[Timeline] = []

    async def serve(request: Request, due: float) -> Timeline | None:
        timeline = await topology.serve(request, repeat, due)
        timelines.append(timeline)
        progress.done += 1
        progress.output_tokens += len(timeline.token_times)
        # One failed request fails the case. Where an engine hangs, waiting for every other would take hours.
        return None if timeline.error else timeline

    session_loop().run(closed_loop(batch, case.concurrency, serve), lambda: while_waiting(progress))
    return timelines
