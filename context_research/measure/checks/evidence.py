"""Gathers what the validity checks need and no timeline holds: per run once, and around each case.

Nothing here runs while requests are measured, but for the watch on the event loop (`client_lag.watched`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from context_research.backends.registry import backend_of
from context_research.engines import contract
from context_research.engines.base import Counters, Engine, Evidence, capabilities
from context_research.engines.loop import EventLoop
from context_research.errors import EngineFailure
from context_research.hardware import load as machine_load
from context_research.hardware.load import Load, Reading
from context_research.hardware.processes import Process
from context_research.measure import client_lag
from context_research.measure.checks import first_token, kv_probe, kv_transport, machine, output_parity, self_test
from context_research.measure.checks.builtin import BUILT_IN, KV, PARITY
from context_research.measure.checks.first_token import LookedUp
from context_research.measure.checks.kv_probe import Probe, Yardstick
from context_research.measure.checks.kv_transport import Transport
from context_research.measure.checks.machine import Treatment
from context_research.measure.checks.output_parity import NoReference, Reference
from context_research.measure.checks.registry import CaseEvidence, Check, Given, judge_all, missing
from context_research.measure.checks.token_counts import Ours
from context_research.measure.client_lag import Lag
from context_research.measure.metrics import Repeat
from context_research.models.model import Model
from context_research.records.case import CheckRecord
from context_research.records.files import RunFiles
from context_research.request import Leg, Request, Timeline, add_reads
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.case import Case, engine_settings
from context_research.workload.load import Planned, planned, typical
from context_research.workload.prompts import alone, beginnings

_NOT_ASKED = NoReference("n/a", "not asked for")
_SETTLE_S = 5.0
_TICK = Request(id="tick", prompt=[1, 2], output_tokens=1, seed=0, temperature=0.0, sha256="", phase="warmup")


@dataclass(slots=True)
class Standing:
    """What stands for all cases of a run: its checks, the null-engine self-test, the copy ceiling, kept references.

    `ceiling` is in bytes a second, None where no KV is handed over; `references` None compares no outputs.
    """

    run_id: str = ""
    references: Path | None = None
    checks: tuple[Check, ...] = BUILT_IN
    self_test: Lag | None = None
    ceiling: float | None = None
    seconds: float = 0.0
    """What this took, the copy ceiling apart, and what log-probabilities are compared by."""
    yardsticks: dict[str, Yardstick] = field(default_factory=dict)
    """By pair of engines as they were started, once it was measured."""


def standing(model: Model, cases: Sequence[Case], files: RunFiles, checks: tuple[Check, ...] = BUILT_IN) -> Standing:
    """Found out before any engine starts: on a GPU they would be in each other's way."""
    busiest = self_test.busiest(cases)
    backend, lag, ceiling = backend_of(busiest.settings), None, None
    began = time.perf_counter()
    if Evidence.WALL_TIME not in backend.absent:
        lag = self_test.run(backend, busiest, model)
    seconds = time.perf_counter() - began if backend.measured else 0.0
    split = next((backend_of(case.settings) for case in cases if case.settings.serving.handoff), None)
    if split is not None and Evidence.LOG not in split.absent:
        ceiling = kv_transport.copy_ceiling(split.settings.device, split.placements)
    return Standing(files.run_id, files.outputs / "references", checks, lag, ceiling, seconds)


@dataclass(slots=True)
class Proof:
    """Gathers the evidence of one case: made by `begun`, it counts while `counting` is open, and then can `judge`."""

    case: Case
    model: Model
    topology: Topology
    standing: Standing
    given: Given
    reference: Reference | NoReference = _NOT_ASKED
    lateness: list[float] = field(default_factory=list)
    resets: dict[str, bool] = field(default_factory=dict)
    """By engine, before the case and after it: whether its prefix cache could be emptied."""
    counted: dict[str, Counters] = field(default_factory=dict)
    """By role: what its engines counted while `counting` was open."""
    by_engine: dict[str, Counters] = field(default_factory=dict)
    """By name: what each counted while `counting` was open."""
    ours: dict[str, Ours] = field(default_factory=dict)
    """By engine: what was sent to it while it was open that is none of the load."""
    began_with: dict[str, tuple[Process, ...]] = field(default_factory=dict)
    """By engine: its processes before the case's first request."""
    replaced: list[str] = field(default_factory=list)
    """Engines that have others now, and did not die: somebody restarted them."""
    probes: list[Probe] = field(default_factory=list)
    _no_yardstick: str = "no yardstick was measured"
    looked_up: list[LookedUp] = field(default_factory=list)
    load: Load | None = None
    treatments: dict[str, Treatment] = field(default_factory=dict)
    """By engine: how the operating system treats it; known once judged."""
    seconds: float = 0.0
    """What gathering and judging took, the parity reference apart."""
    reference_s: float = 0.0
    client_lag: Lag | None = None
    """Of the measured requests; known once judged."""

    @contextmanager
    def counting(self, timelines: Sequence[Timeline]) -> Iterator[None]:
        """Empty every prefix cache, and count what engines do while open. `timelines` are all that were sent by then.

        At the end every engine reports what it still holds back.
        """
        with self._clocked():
            self.resets = self._settle()
            for engine in self.topology.engines:
                engine.counters.kv_usage_max = 0.0
            before = {engine.name: engine.counters.snapshot() for engine in self.topology.engines}
            self.ours.clear()
        began = self._reading()
        yield
        if began is not None and (ended := self._reading()) is not None:
            self.load = machine_load.between(began, ended, self.settings.device, self.topology.backend.devices)
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
                self.by_engine[engine.name] = counted = own.since(before[engine.name])
                self.counted[engine.role] = self.counted.get(engine.role, Counters()) + counted
            self.replaced = [
                engine.name
                for engine in self.topology.engines
                if not engine.dead and _processes(engine) != self.began_with.get(engine.name, ())
            ]

    def prime(self, batch: Sequence[Request]) -> None:
        """Put the declared share of each prompt into the prefix cache of every engine that may compute it.

        Whatever goes wrong here shows in the measured requests: they fail, or find another cache than declared.
        """
        workload = self.settings.workload
        if workload.primed_share:
            for engine, request in product(self.topology.prefillers, beginnings(batch, workload.primed_share)):
                if not self._loop.run(_done(self._serve(engine, request), workload.request_timeout_s)):
                    return

    def afterwards(self, batches: Iterable[Sequence[Request]], timelines: Sequence[Timeline]) -> None:
        """Serve what tells of the measured requests, once they are over: nothing, where one of them failed.

        `batches` are made again, where they are looked at.
        """
        if any(timeline.error for timeline in timelines):
            return
        with self._clocked():
            if not KV.ruled_out(self.settings, self.given):
                found = (self._probe(number, *pair) for number, pair in enumerate(kv_probe.pairs(self.topology)))
                self.probes = [each for each in found if each is not None]
            different = first_token.differing([timeline for timeline in timelines if timeline.phase != "warmup"])
            greedy, exact = self.settings.workload.temperature == 0, output_parity.is_exact(self.model)
            if different and greedy and not exact and not missing({Evidence.ALTERNATIVES}, self.given):
                names = {timeline.request for timeline in different}
                sent = {request.id: request for batch in batches for request in batch if request.id in names}
                ends = [timeline.finished for timeline in timelines if timeline.finished]
                seconds = max(ends, default=0.0) - min(timeline.sent for timeline in timelines)
                looking = first_token.look_up(
                    self.topology.prefillers[0], different, sent, seconds, self.settings.workload.request_timeout_s
                )
                self.looked_up = self._loop.run(looking)

    def _probe(self, number: int, prefill: Engine, decode: Engine) -> Probe | None:
        if (requests := self._alone(number)) is None:
            return None
        known = self.standing.yardsticks.get(self._pair(prefill, decode))
        if known is None:
            return Probe(prefill.name, decode.name, error=self._no_yardstick)
        timeout_s = self.settings.workload.request_timeout_s
        return self._loop.run(kv_probe.probe(self.topology, prefill, decode, requests[0], known, timeout_s))

    def _measure_yardsticks(self) -> None:
        """Once a run and pair of engines, before its first case; again where none could be measured."""
        began = time.perf_counter()
        for number, (prefill, decode) in enumerate(kv_probe.pairs(self.topology)):
            pair, requests = self._pair(prefill, decode), self._alone(number)
            if pair in self.standing.yardsticks or requests is None:
                continue
            self._settle()
            measuring = kv_probe.measure(prefill, decode, *requests, self.settings.workload.request_timeout_s)
            try:
                self.standing.yardsticks[pair] = self._loop.run(measuring)
            except Exception as error:  # told by the check; the next case tries again
                self._no_yardstick = f"no yardstick: {type(error).__name__}: {error}"
        if self.topology.backend.measured:
            self.standing.seconds += time.perf_counter() - began

    def _alone(self, number: int) -> tuple[Request, Request] | None:
        tokens = min(kv_probe.TOKENS, typical(self.case).output_tokens)
        return alone(self.case, self.model.vocabulary, number, tokens, self.model.max_length)

    def _pair(self, prefill: Engine, decode: Engine) -> str:
        """Two engines as they were started: a yardstick of others is none of theirs."""
        return f"{engine_settings(self.settings)} {prefill.name} {decode.name}"

    @property
    def settings(self) -> Settings:
        return self.case.settings

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong with transfers, by the connector's names, on all engines."""
        return dict(sum((Counter(counters.faults) for counters in self.counted.values()), Counter[str]()))

    def judge(
        self, asked: int, timelines: Sequence[Timeline], steady: Sequence[Repeat], whole: Sequence[Repeat]
    ) -> list[CheckRecord]:
        """Every check's result. `timelines` are all that were sent, the warm-up's too; `asked` were to be measured."""
        with self._clocked():
            measured = [timeline for repeat in steady for timeline in repeat.timelines]
            self.client_lag = client_lag.of(measured, self.lateness)
            topology = self.topology
            self.treatments = machine.treatments(topology.engines, topology.backend.placements, self.settings.device)
            evidence = CaseEvidence(
                case=self.case,
                model=self.model,
                given=self.given,
                asked=asked,
                timelines=timelines,
                steady=steady,
                whole=whole,
                counted=self.counted,
                faults=self.faults,
                resets=self.resets,
                dead=[engine.name for engine in self.topology.engines if engine.dead],
                client_lag=self.client_lag,
                self_test=self.standing.self_test,
                transport=self._transport(),
                reference=self.reference,
                by_engine=self.by_engine,
                ours=self.ours,
                replaced=self.replaced,
                probes=self.probes,
                looked_up=self.looked_up,
                load=self.load,
                treatments=self.treatments,
                plans=self._plans(timelines),
                own_niceness=os.getpriority(os.PRIO_PROCESS, 0),
            )
            return judge_all(self.standing.checks, evidence)

    def _plans(self, timelines: Sequence[Timeline]) -> dict[int, list[Planned]]:
        """What each repeat that was begun was to send."""
        begun = sorted({timeline.repeat for timeline in timelines if timeline.repeat >= 0})
        return {repeat: planned(self.case, repeat) for repeat in begun}

    @property
    def _named(self) -> list[Process]:
        """The processes that engines name: they may be none of this process's children."""
        return [process for engine in self.topology.engines for process in _processes(engine)]

    def _reading(self) -> Reading | None:
        if Evidence.WALL_TIME not in self.given.backend:
            return None
        return machine_load.read(self.settings.device, self.topology.backend.devices, self._named)

    def _transport(self) -> Transport | None:
        if self.standing.ceiling is None:
            return None
        logs = [engine.log for engine in self.topology.decoders]
        return kv_transport.seen(logs, self.standing.ceiling, self.settings.device, self.topology.backend.placements)

    def _settle(self) -> dict[str, bool]:
        """Empty every prefix cache that can be emptied; by engine, whether that was done.

        A tick first: an engine frees KV that was fetched, and reports what expired, only in its next step.
        """
        can = [engine for engine in self.topology.engines if Evidence.RESETS in self.given.by_engine[engine.name]]
        return {engine.name: self._loop.run(self._settled(engine)) for engine in can}

    async def _settled(self, engine: Engine) -> bool:
        async def empty() -> None:
            while not engine.dead:
                await self._serve(engine, _TICK)
                if await engine.reset_prefix_cache():
                    return
                await asyncio.sleep(0.02)
            raise EngineFailure(f"engine {engine.name!r} died")

        return await _done(empty(), _SETTLE_S)

    async def _serve(self, engine: Engine, request: Request) -> None:
        """One token of a request that is none of the load."""
        self.ours[engine.name] = self.ours.get(engine.name, Ours()).with_one(len(request.prompt))
        await engine.serve(request, Leg(engine.name), output_tokens=1, handoff=None)

    @property
    def _loop(self) -> EventLoop:
        return self.topology.backend.loop

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if self.topology.backend.measured:  # else artifacts are the same to the last bit, run after run
                self.seconds += time.perf_counter() - began


def begun(case: Case, model: Model, topology: Topology, standing: Standing, batch: Sequence[Request]) -> Proof:
    """A case's proof, its parity reference found or made: of requests of `batch`, before any of them is sent.

    Raises UsageProblem for a kept reference that is corrupt or foreign.
    """
    processes = {engine.name: _processes(engine) for engine in topology.engines}
    proof = Proof(case, model, topology, standing, _given(topology), began_with=processes)
    if not KV.ruled_out(case.settings, proof.given):
        proof._measure_yardsticks()
    began = time.perf_counter()
    proof.reference = _reference(proof, batch)
    if topology.backend.measured:
        proof.reference_s = time.perf_counter() - began
    return proof


def _given(topology: Topology) -> Given:
    by_engine = {engine.name: capabilities(engine) for engine in topology.engines}
    return Given(by_engine, topology.backend.evidence, topology.backend.absent)


def _reference(proof: Proof, batch: Sequence[Request]) -> Reference | NoReference:
    settings, standing = proof.settings, proof.standing
    if PARITY.ruled_out(settings, proof.given):
        return _NOT_ASKED
    if standing.references is None:
        return _NOT_ASKED
    if not output_parity.is_exact(proof.model) and (why := missing({Evidence.ALTERNATIVES}, proof.given)):
        return NoReference("not provable", why)
    sample, engines = output_parity.sample(batch), contract.foreign(proof.topology.engines)
    kept = output_parity.Kept(standing.references, sample, settings, proof.model, engines)
    with kept.lock:  # of two arms that run side by side, one makes it and the other is held against it
        if not kept.path.exists():
            try:
                if not all(proof._settle().values()):  # a reference out of cached KV would prove nothing
                    raise EngineFailure("the prefix cache could not be emptied")
                kept.make(proof.topology.prefillers[0], proof.topology.backend.loop, standing.run_id)
            except EngineFailure as failure:  # the case will find out, too, and says so
                return NoReference("fail", f"no reference could be made: {failure}")
        return kept.read()


async def _done(work: Coroutine[Any, Any, None], timeout_s: float) -> bool:
    """Whether the work ended in time and well; what an engine raises is not this module's to judge."""
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except Exception:
        return False
    return True


def _processes(engine: Engine) -> tuple[Process, ...]:
    """Nothing of an engine that doesn't name its own."""
    processes: tuple[Process, ...] = getattr(engine, "processes", ())
    return processes
