"""A: our measuring loop against the smallest asyncio loop over the same engine, with the same requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from quiet import in_pairs
from ratios import Bar, Comparison

from context_research import models
from context_research.engines.base import Request
from context_research.engines.vllm import VllmEngine
from context_research.errors import EngineFailure
from context_research.eventloop import session_loop
from context_research.measure import CaseResult, measure
from context_research.models import Model
from context_research.serving import topologies
from context_research.serving.base import Topology
from context_research.settings import Settings
from context_research.workload.prompts import Case, requests

THROUGHPUT, TTFT = Bar(low=0.99), Bar(high=1.01)
_RESET_S = 5.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One batch served: the whole pass and each request's first token (from sending it), in seconds.

    `cpu` is what the client's event loop thread computed meanwhile: other work on the machine hardly moves it.
    """

    seconds: float
    ttfts: list[float]
    cpu: float = 0.0


def build(settings: Settings, model: Model, log: Path) -> tuple[Topology, VllmEngine]:
    """The aggregated topology as the plugin builds it, and its one engine; not started."""
    topology = topologies.build(settings, lambda placement: VllmEngine(settings, model, placement, log))
    engine = topology.decoder
    assert isinstance(engine, VllmEngine)
    return topology, engine


def compare(settings: Settings, pairs: int, max_others: float, log: Path) -> list[Comparison]:
    """Throughput, TTFT and client CPU of both loops at each concurrency of the workload, on one running engine.

    The workload's `requests` are those that each concurrency slot serves in one run.
    """
    model = models.download(models.resolve(settings.model))
    topology, engine = build(settings, model, log)
    try:
        topology.start()
        return [
            comparison
            for concurrency in settings.workload.concurrency
            for comparison in _at(concurrency, settings, model, topology, engine, pairs, max_others)
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
) -> list[Comparison]:
    case = Case(settings.experiment, settings.workload.prompt_lengths[0], concurrency)
    per_slot = settings.workload.requests
    workload = settings.workload.model_copy(update={"requests": per_slot * concurrency, "warmup_requests": 0})
    seed, tokens = settings.seed or 0, workload.requests * workload.output_tokens

    def side(serve: Callable[[Settings], Pass], name: str) -> Callable[[int], Pass]:
        def run(pair: int) -> Pass:
            _reset(engine)
            counted, cpu = engine.counters.snapshot(), _loop_cpu()
            # A seed of the pair's own: the same prompts on both sides, others in the next pair.
            made = serve(settings.model_copy(update={"workload": workload, "seed": seed + pair}))
            made = Pass(made.seconds, made.ttfts, _loop_cpu() - cpu)
            _reset(engine)  # a round trip: the engine's counts are all in after it
            since = engine.counters.since(counted)
            if since.generated != tokens or since.prompt_cached:
                raise EngineFailure(f"{name}: {since.generated} of {tokens} tokens, {since.prompt_cached} cached")
            return made

        return run

    def ours(asked: Settings) -> Pass:
        return _taken(measure(case, asked, model, topology, repeats=1))

    def bare(asked: Settings) -> Pass:
        batch = requests(case, workload, asked.seed or 0, model.vocabulary, 0)
        return session_loop().run(_bare_loop(engine._llm, batch, concurrency))

    sides = side(ours, "ours"), side(bare, "bare")
    for warm_up in sides:
        warm_up(pairs)
    results = in_pairs(f"bare loop, {concurrency} at a time", *sides, pairs, max_others)
    load = f"{case.prompt_tokens} in, {workload.output_tokens} out, {concurrency} at a time × {per_slot}"

    def both(name: str, unit: str, figure: Callable[[Pass], float], bar: Bar | None = None) -> Comparison:
        return Comparison(name, load, unit, [figure(a) for a, _ in results], [figure(b) for _, b in results], bar)

    return [
        both("throughput", "tok/s", lambda made: tokens / made.seconds, THROUGHPUT),
        both("TTFT p50", "s", lambda made: median(made.ttfts), TTFT),
        both("client CPU a token", "s", lambda made: made.cpu / tokens),
    ]


def _taken(result: CaseResult) -> Pass:
    """What our path reports of one repeat. Raises EngineFailure for an invalid one."""
    if result.failure:
        raise EngineFailure(result.failure)
    repeat = result.repeats[0]
    return Pass(repeat.seconds, [timeline.token_times[0] - timeline.sent for timeline in repeat.timelines])


async def _bare_loop(llm: Any, batch: list[Request], concurrency: int) -> Pass:
    """The least that drives an AsyncLLM: `concurrency` slots, two clock readings a request, nothing kept of tokens."""
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
    waiting, ttfts, clock = iter(prepared), [], time.perf_counter

    async def slot() -> None:
        for prompt, parameters, name in waiting:
            sent, first = clock(), 0.0
            async for _ in llm.generate(prompt, parameters, name):
                first = first or clock()
            ttfts.append(first - sent)

    started = clock()
    await asyncio.gather(*(slot() for _ in range(concurrency)))
    return Pass(clock() - started, ttfts)


def _loop_cpu() -> float:
    """CPU seconds of the event loop's thread so far."""

    async def read() -> float:
        return time.thread_time()

    return session_loop().run(read())


def _reset(engine: VllmEngine) -> None:
    """Empty the prefix cache. It refuses while blocks are still held, which ends a moment after the last request."""
    deadline = time.perf_counter() + _RESET_S
    while not session_loop().run(engine._llm.reset_prefix_cache()):
        if time.perf_counter() > deadline:
            raise EngineFailure(f"the prefix cache could not be reset within {_RESET_S:g} s")
        time.sleep(0.05)
