"""Gathers what the validity checks need and no timeline holds: per run once, and around each case.

Nothing here runs while requests are measured, but for the event loop's own watch (`lag.watched`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from context_research.engines.base import Counters, Engine
from context_research.engines.loop import EventLoop, session_loop
from context_research.engines.null import NullEngine
from context_research.errors import EngineFailure
from context_research.measure import client_lag
from context_research.measure.checks import judge, kv_transport, output_parity
from context_research.measure.checks.judge import Check
from context_research.measure.checks.kv_transport import Transport
from context_research.measure.checks.output_parity import Reference
from context_research.measure.client_lag import Lag
from context_research.measure.metrics import Repeat
from context_research.models import capacity
from context_research.models.model import Model
from context_research.records.files import RunFiles
from context_research.request import Leg, Request, Timeline, add_reads
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.arrivals import closed_loop
from context_research.workload.case import Case
from context_research.workload.prompts import beginnings, requests

SIMULATED = "simulated: no engine ran"
_SETTLE_S = 5.0
_NULL_GAP_S = 1e-3
_NULL_ROUNDS = 4
"""Requests of each slot in the client's self-test."""
_TICK = Request(id="tick", prompt=[1, 2], output_tokens=1, seed=0, temperature=0.0, sha256="", phase="warmup")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is found out once a run: the null-engine self-test, the copy ceiling, where parity references are kept.

    `ceiling` is in bytes a second, None where no KV is handed over; `references` None compares no outputs.
    """

    run_id: str = ""
    references: Path | None = None
    self_test: Lag | None = None
    ceiling: float | None = None
    seconds: float = 0.0
    """What this took, the copy ceiling apart."""


def standing(model: Model, cases: Sequence[Case], files: RunFiles) -> Standing:
    """Found out before any engine starts: on a GPU they would be in each other's way. Nothing, of simulated engines."""
    busiest = max(cases, key=lambda case: case.concurrency)
    settings = busiest.settings
    if settings.simulated:
        return Standing(files.run_id)
    began = time.perf_counter()
    self_test = _self_test(busiest, model)
    seconds = time.perf_counter() - began
    ceiling = kv_transport.copy_ceiling(settings) if settings.serving.handoff else None
    return Standing(files.run_id, files.outputs / "references", self_test, ceiling, seconds)


def _self_test(case: Case, model: Model) -> Lag:
    """Replay the case's schedule on engines that compute nothing: what is late then is the client's own."""
    topology = build.build(case.settings, lambda placement: NullEngine(placement, _NULL_GAP_S))
    batch = requests(case, model.vocabulary, 0)
    timelines: list[Timeline] = []
    lateness: list[float] = []

    async def serve(request: Request, due: float) -> Timeline:
        timelines.append(await topology.serve(request, 0, due))
        return timelines[-1]

    async def replay() -> None:
        async with client_lag.watched(lateness):
            await closed_loop(batch[: _NULL_ROUNDS * case.concurrency], case.concurrency, serve)

    with client_lag.frozen_heap():
        session_loop().run(replay())
    if errors := [timeline.error for timeline in timelines if timeline.error]:
        raise RuntimeError(f"the client's self-test failed: {errors[0]}")  # a mistake of ours: nothing else is there
    return client_lag.of(timelines, lateness)


@dataclass(slots=True)
class Proof:
    """One case's. In order: `before`, `start`, the measured passes, `end`, `checks`."""

    case: Case
    model: Model
    topology: Topology
    standing: Standing
    lateness: list[float] = field(default_factory=list)
    reference: Reference | EngineFailure | str = ""
    resets: dict[str, bool] = field(default_factory=dict)
    """By engine, before the case and after it: whether its prefix cache could be emptied."""
    counted: dict[str, Counters] = field(default_factory=dict)
    """By role: what its engines counted from `start` to `end`."""
    seconds: float = 0.0
    """What gathering and judging took, the parity reference apart."""
    reference_s: float = 0.0
    client_lag: Lag | None = None
    """Of the measured requests; known once judged."""
    _before: dict[str, Counters] = field(default_factory=dict)

    def before(self, batch: Sequence[Request]) -> None:
        """Find the parity reference, or make it. Raises UsageProblem for a kept one that is corrupt or foreign."""
        began = time.perf_counter()
        self.reference = self._reference(batch)
        if not self.settings.simulated:
            self.reference_s = time.perf_counter() - began

    def _reference(self, batch: Sequence[Request]) -> Reference | EngineFailure | str:
        if self.settings.simulated:
            return SIMULATED
        if self.standing.references is None:
            return "not asked for"
        if (reason := output_parity.inapplicable(self.settings)) is not None:
            return reason
        kept = output_parity.Kept(self.standing.references, output_parity.sample(batch), self.settings, self.model)
        with kept.lock:  # of two arms that run side by side, one makes it and the other is held against it
            if not kept.path.exists():
                try:
                    if not all(self._settle().values()):  # a reference out of cached KV would prove nothing
                        raise EngineFailure("the prefix cache could not be emptied")
                    kept.make(self.topology.prefillers[0], self.standing.run_id)
                except EngineFailure as failure:  # the case will find out, too, and says so
                    return failure
            return kept.read()

    def start(self) -> None:
        """Empty every prefix cache, and begin to count."""
        with self._clocked():
            self.resets = self._settle()
            for engine in self.topology.engines:
                engine.counters.kv_usage_max = 0.0
                self._before[engine.name] = engine.counters.snapshot()

    def prime(self, batch: Sequence[Request]) -> None:
        """Put the declared share of each prompt into the prefix cache of every engine that may compute it.

        Whatever goes wrong here shows in the measured requests: they fail, or find another cache than declared.
        """
        workload = self.settings.workload
        if workload.primed_share:
            for engine, request in product(self.topology.prefillers, beginnings(batch, workload.primed_share)):
                if not self._loop.run(_done(_served(engine, request), workload.request_timeout_s)):
                    return

    def end(self, timelines: Sequence[Timeline]) -> None:
        """Have every engine report what it still holds back, and take the counts."""
        with self._clocked():
            # Blocks that stay in use are KV that was handed to nobody. A dead engine is for `complete` to tell.
            priced = {e.name: (e.counters.steps, e.counters.extrapolated) for e in self.topology.engines}
            emptied, dead = self._settle(), {engine.name for engine in self.topology.engines if engine.dead}
            self.resets |= {f"{name} afterwards": done for name, done in emptied.items() if name not in dead}
            for engine in self.topology.engines:
                add_reads(timelines, engine.counters.reads)  # the warm-up's too, which are in no count
                # The tick's step is none of the case's: a decode engine computes no other prompt.
                steps, extrapolated = priced[engine.name]
                own = replace(engine.counters, steps=steps, extrapolated=extrapolated)
                counted = own.since(self._before[engine.name])
                self.counted[engine.role] = self.counted.get(engine.role, Counters()) + counted

    @property
    def settings(self) -> Settings:
        return self.case.settings

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong with transfers, by the connector's names, on all engines."""
        return dict(sum((Counter(counters.faults) for counters in self.counted.values()), Counter[str]()))

    def checks(
        self, asked: int, timelines: Sequence[Timeline], steady: Sequence[Repeat], whole: Sequence[Repeat]
    ) -> list[Check]:
        """Every check's verdict. `timelines` are all that were sent, the warm-up's too."""
        with self._clocked():
            return self._checks(asked, timelines, steady, whole)

    def _checks(
        self, asked: int, timelines: Sequence[Timeline], steady: Sequence[Repeat], whole: Sequence[Repeat]
    ) -> list[Check]:
        chosen, workload, decode = self.settings, self.settings.workload, self.counted.get("decode")
        sent = [timeline for timeline in timelines if timeline.phase != "warmup"]
        measured = [timeline for repeat in steady for timeline in repeat.timelines]
        cached = capacity.cached_tokens(chosen, self.case.prompt_tokens)
        self.client_lag = client_lag.of(measured, self.lateness)
        dead = [engine.name for engine in self.topology.engines if engine.dead]
        found = [
            judge.complete(asked, timelines, dead),
            judge.disaggregated(
                sent, decode, self.faults, capacity.block_tokens(chosen), self.model.kv_bytes_per_token
            ),
            judge.not_applicable("transport", SIMULATED)
            if chosen.simulated
            else judge.transport(self._transport(), _reads(decode)),
            judge.cache(sent, self.counted, self.resets, str(workload.cache), cached),
            judge.not_applicable("client", SIMULATED)
            if chosen.simulated
            else judge.client(measured, self.client_lag, self.standing.self_test),
            judge.pressure(self.counted, workload.allow_preemptions),
            judge.parity(sent, self.reference, output_parity.is_exact(self.model)),
            judge.window(steady, whole, self.case.concurrency),
            judge.ttft_waterfall(measured, self.case.prompt_tokens, chosen.device),
        ]
        return [replace(check, allowed=check.check in chosen.allow_invalid) for check in found]

    def _transport(self) -> Transport | None:
        if self.standing.ceiling is None:
            return None
        return kv_transport.seen(
            [engine.log for engine in self.topology.decoders], self.standing.ceiling, self.settings
        )

    def _settle(self) -> dict[str, bool]:
        """Empty every engine's prefix cache; by name, whether that was done.

        A tick first: an engine frees KV that was fetched, and reports what expired, only in its next step.
        """
        return {engine.name: self._loop.run(_settled(engine)) for engine in self.topology.engines}

    @property
    def _loop(self) -> EventLoop:
        return session_loop(self.settings.simulated)

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if not self.settings.simulated:  # whose artifacts are the same to the last bit, run after run
                self.seconds += time.perf_counter() - began


def _reads(decode: Counters | None) -> Sequence[tuple[float, int]]:
    """(seconds, bytes) of each KV read as its request had to wait for it; all of one case have the same size.

    NIXL's own records leave out what a connector does around a transfer; they are used where no others are.
    """
    if decode is None:
        return []
    sizes = (size for _, size in decode.transfers)
    return [(end - start, size) for (_, start, end), size in zip(decode.reads, sizes, strict=False)] or decode.transfers


async def _settled(engine: Engine) -> bool:
    async def empty() -> None:
        while not engine.dead:
            await _served(engine, _TICK)
            if await engine.reset_prefix_cache():
                return
            await asyncio.sleep(0.02)
        raise EngineFailure(f"engine {engine.name!r} died")

    return await _done(empty(), _SETTLE_S)


async def _done(work: Coroutine[Any, Any, None], timeout_s: float) -> bool:
    """Whether the work ended in time and well; what an engine raises is not this module's to judge."""
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except Exception:
        return False
    return True


async def _served(engine: Engine, request: Request) -> None:
    await engine.serve(request, Leg(engine.name), output_tokens=1, handoff=None)
