"""A: our measuring loop against the smallest asyncio loop over the same engine, with the same requests."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from bench import Bench, Pass, compared, started
from context_research.engines.loop import process_loop
from context_research.engines.vllm.engine import VllmEngine, sampling
from context_research.errors import EngineFailure
from context_research.measure import client_lag
from context_research.request import Request
from context_research.settings.schema import Settings
from context_research.workload.prompts import requests
from quiet import Pairing
from ratios import Bar, Comparison

THROUGHPUT, TTFT, GAP = Bar(low=0.99), Bar(high=1.01), Bar(high=1.01)


def compare(settings: Settings, pairing: Pairing, log: Path) -> list[Comparison]:
    """Throughput, TTFT and token gap of both loops at each concurrency of the workload, on one running engine."""
    with started(settings, log) as bench:
        levels = settings.workload.concurrency
        return [comparison for level in levels for comparison in _at(level, bench, pairing)]


def _at(concurrency: int, bench: Bench, pairing: Pairing) -> list[Comparison]:
    def ours(pair: int) -> Pass:
        return bench.measure(concurrency, pair)

    def bare(pair: int) -> Pass:
        return _bare(bench, concurrency, pair)

    for warm_up in (ours, bare):
        warm_up(pairing.pairs)
    results, load = pairing.run(f"bare loop, {concurrency} at a time", ours, bare), bench.load(concurrency)
    return [
        compared(results, load, "throughput", "tok/s", lambda made: made.tokens / made.seconds, THROUGHPUT),
        compared(results, load, "TTFT p50", "s", lambda made: median(made.ttfts), TTFT),
        compared(results, load, "token gap p50", "s", lambda made: median(made.gaps), GAP),
    ]


def _bare(bench: Bench, concurrency: int, pair: int) -> Pass:
    """The pair's requests, sent by the bare loop. Raises EngineFailure where the engine did not generate all of it."""
    bench.reset_prefix_cache()
    counters = bench.engine.counters
    before = counters.snapshot()
    batch = requests(bench.case(concurrency, pair), bench.model.vocabulary, 0)
    with client_lag.frozen_heap():  # as ours
        made = process_loop().run(_bare_loop(bench.engine, batch, concurrency))
    bench.reset_prefix_cache()  # a round trip: the engine's counts are all in after it
    since = counters.since(before)
    if since.generated != made.tokens or since.prompt_cached:
        raise EngineFailure(f"bare loop: {since.generated} of {made.tokens} tokens, {since.prompt_cached} cached")
    return made


async def _bare_loop(engine: VllmEngine, batch: list[Request], concurrency: int) -> Pass:
    """The least that drives an AsyncLLM: `concurrency` slots, and a clock reading a chunk, kept as it comes."""
    generate = engine.llm.generate
    prepared = [
        ({"prompt_token_ids": list(request.prompt)}, sampling(request, request.output_tokens, None), request.id)
        for request in batch
    ]
    waiting, clock, served = iter(prepared), time.perf_counter, list[tuple[float, list[float]]]()

    async def slot() -> None:
        for prompt, parameters, name in waiting:
            sent, times = clock(), list[float]()
            async for output in generate(prompt, parameters, name):
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
