"""A: our measuring loop against the smallest asyncio loop over the same engine, with the same requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from quiet import in_pairs
from ratios import Bar, Comparison

from context_research.engines.loop import session_loop
from context_research.engines.vllm.engine import VllmEngine
from context_research.errors import EngineFailure
from context_research.measure import client_lag, metrics
from context_research.measure.case import CaseResult, measure
from context_research.models import hub
from context_research.models.model import Model
from context_research.request import Request
from context_research.serving.build import build as build_topology
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings, Workload
from context_research.workload.case import Case, point
from context_research.workload.prompts import requests

THROUGHPUT, TTFT, GAP = Bar(low=0.99), Bar(high=1.01), Bar(high=1.01)
_RESET_S = 5.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One batch served, ramp and drain included: seconds in all, from sending to first tokens, and between tokens.

    `late`: the validity check `client` failed, which the bare loop has none of. It counts all the same: being late is
    part of what a client costs.
    """

    seconds: float
    tokens: int
    ttfts: list[float]
    gaps: list[float]
    late: bool = False


def build(settings: Settings, model: Model, log: Path) -> tuple[Topology, VllmEngine]:
    """The aggregated topology as the plugin builds it, and its one engine; not started."""
    topology = build_topology(settings, lambda placement: VllmEngine(settings, model, placement, log))
    engine = topology.decoders[0]
    assert isinstance(engine, VllmEngine)
    return topology, engine


def compare(settings: Settings, pairs: int, max_others: float, deadline: float, log: Path) -> list[Comparison]:
    """Throughput, TTFT and token gap of both loops at each concurrency of the workload, on one running engine.

    The workload's `requests` are those that each concurrency slot serves in one run.
    """
    model = hub.download(hub.resolve(settings.model))
    topology, engine = build(settings, model, log)
    try:
        topology.start()
        return [
            comparison
            for concurrency in settings.workload.concurrency
            for comparison in _at(concurrency, settings, model, topology, engine, pairs, max_others, deadline)
        ]
    finally:
        topology.close()


def _at(
    concurrency: int,
    settings: Settings,
    model: Model,
    topology: Topology,
    engine: VllmEngine,
    pairs: int,
    max_others: float,
    deadline: float,
) -> list[Comparison]:
    per_slot = settings.workload.requests
    workload = settings.workload.model_copy(update={"requests": per_slot * concurrency, "warmup_requests": 0})

    def ours(pair: int) -> Pass:
        return _taken(measure(_case(concurrency, _seeded(settings, workload, pair)), model, topology, repeats=1))

    def bare(pair: int) -> Pass:
        _reset(engine)
        counted, case = engine.counters.snapshot(), _case(concurrency, _seeded(settings, workload, pair))
        batch = requests(case, model.vocabulary, 0)
        with client_lag.frozen_heap():  # as ours
            made = session_loop().run(_bare_loop(engine._llm, batch, concurrency))
        _reset(engine)  # a round trip: the engine's counts are all in after it
        since = engine.counters.since(counted)
        if since.generated != made.tokens or since.prompt_cached:
            raise EngineFailure(f"bare loop: {since.generated} of {made.tokens} tokens, {since.prompt_cached} cached")
        return made

    for warm_up in (ours, bare):
        warm_up(pairs)
    results = in_pairs(f"bare loop, {concurrency} at a time", ours, bare, pairs, max_others, deadline)
    load = f"{workload.prompt_lengths[0]} in, {workload.output_tokens} out, {concurrency} at a time × {per_slot}"

    return [
        _compared(results, load, "throughput", "tok/s", lambda made: made.tokens / made.seconds, THROUGHPUT),
        _compared(results, load, "TTFT p50", "s", lambda made: median(made.ttfts), TTFT),
        _compared(results, load, "token gap p50", "s", lambda made: median(made.gaps), GAP),
    ]


def _case(concurrency: int, settings: Settings) -> Case:
    return point(settings, settings.workload.prompt_lengths[0], concurrency)


def _compared(
    results: Sequence[tuple[Pass, Pass]],
    load: str,
    name: str,
    unit: str,
    figure: Callable[[Pass], float],
    bar: Bar | None = None,
) -> Comparison:
    """One figure of both sides' passes, in pairs."""
    late = sum(a.late or b.late for a, b in results)
    return Comparison(name, load, unit, [figure(a) for a, _ in results], [figure(b) for _, b in results], bar, late)


def _seeded(settings: Settings, workload: Workload, pair: int) -> Settings:
    """With a seed of the pair's own: the same prompts on both sides, others in the next pair.

    A late client ends nothing: it is counted and told (see Pass).
    """
    own = {"workload": workload, "seed": (settings.seed or 0) + pair, "allow_invalid": ("client",)}
    return settings.model_copy(update=own)


def _taken(result: CaseResult) -> Pass:
    """What our path reports of one repeat. Raises EngineFailure for an invalid one."""
    if result.failure:
        raise EngineFailure(result.failure)
    whole = result.whole[0]
    return Pass(
        whole.seconds,
        whole.output_tokens,
        [timeline.token_times[0] - timeline.sent for timeline in whole.timelines],
        [gap for timeline in whole.timelines for gap in metrics.itl(timeline)],
        late=any(check.check == "client" and check.status == "fail" for check in result.checks),
    )


async def _bare_loop(llm: Any, batch: list[Request], concurrency: int) -> Pass:
    """The least that drives an AsyncLLM: `concurrency` slots, and a clock reading a chunk, kept as it comes."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    prepared = [
        (
            {"prompt_token_ids": request.prompt},
            SamplingParams(
                max_tokens=request.output_tokens,
                temperature=request.temperature,
                seed=request.seed,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            ),
            request.id,
        )
        for request in batch
    ]
    waiting, clock, served = iter(prepared), time.perf_counter, list[tuple[float, list[float]]]()

    async def slot() -> None:
        for prompt, parameters, name in waiting:
            sent, times = clock(), list[float]()
            async for output in llm.generate(prompt, parameters, name):
                times.extend((clock(),) * len(output.outputs[0].token_ids))
            served.append((sent, times))

    started = clock()
    await asyncio.gather(*(slot() for _ in range(concurrency)))
    ended = clock()
    return Pass(
        ended - started,
        sum(len(times) for _, times in served),
        [times[0] - sent for sent, times in served],
        [b - a for _, times in served for a, b in pairwise(times)],
    )


def _reset(engine: VllmEngine) -> None:
    """Empty the prefix cache. It refuses while blocks are still held, which ends a moment after the last request."""
    deadline = time.perf_counter() + _RESET_S
    while not session_loop().run(engine.reset_prefix_cache()):
        if time.perf_counter() > deadline:
            raise EngineFailure(f"the prefix cache could not be reset within {_RESET_S:g} s")
        time.sleep(0.05)
