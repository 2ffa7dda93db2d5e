"""Steps that real engines recorded."""

import asyncio
import time

import pytest

from context_research.engines import step_records
from context_research.engines.loop import process_loop
from context_research.workload.case import point
from context_research.workload.prompts import requests
from tests.support.engines import generate, prompt
from tests.support.settings import tolerant


def steps_of(engine, since=0.0, expected=None):
    """The engine's steps after `since`. They are written once it is idle, a moment after the last token."""
    path, deadline = step_records.path_of(engine.log), time.perf_counter() + 5
    while True:
        process_loop().run(engine.reset_prefix_cache())  # a round trip
        steps = step_records.read(path)
        steps = steps[steps["done"] > since]
        if expected is None or len(steps) >= expected or time.perf_counter() > deadline:
            return steps
        time.sleep(0.05)


def test_every_token_computed_is_in_a_step(aggregated):
    engine, began = aggregated.decoders[0], time.perf_counter()
    before = engine.counters.snapshot()
    for salt in (61, 62):
        generate(engine, f"steps{salt}", prompt(salt, 512), 8)
    steps = steps_of(engine, began, expected=16)
    assert steps["prefill_tokens"].sum() == engine.counters.since(before).prompt_computed == 2 * 512
    assert steps["prefill_requests"].sum() == 2
    assert steps["prefill_pairs"].sum() == 2 * 512 * 513 // 2
    assert steps["decode_requests"].sum() == 2 * 7, "each prompt's step gives the first token"
    assert steps["decode_kv_tokens"].tolist() == 2 * [0, *range(512, 519)]


def test_their_seconds_are_those_the_client_saw(aggregated):
    engine, began = aggregated.decoders[0], time.perf_counter()
    leg = generate(engine, "seconds", prompt(63, 512), 24)
    steps, wall = steps_of(engine, began, expected=24), time.perf_counter() - began
    assert (steps["seconds"] > 0).all()
    assert leg.sent < (steps["done"] - steps["seconds"])[0]
    assert steps["done"][-1] < leg.token_times[-1]
    # One busy span: nothing between the steps is missing, nothing is counted twice.
    busy = steps["done"][-1] - (steps["done"] - steps["seconds"])[0]
    assert steps["seconds"].sum() == pytest.approx(busy, abs=1e-4)
    assert steps["seconds"].sum() < leg.token_times[-1] - leg.sent < wall


def test_requests_of_one_step_are_counted_together(aggregated, tiny):
    engine, began = aggregated.decoders[0], time.perf_counter()
    chosen = tolerant(seed=8, workload__requests=3, workload__output_tokens=16)
    batch = requests(point(chosen, 64, 3), tiny.vocabulary, 0)[:3]

    async def together():
        await asyncio.gather(*(aggregated.serve(one, index, 0.0) for index, one in enumerate(batch)))

    process_loop().run(together())
    steps = steps_of(engine, began, expected=16)
    assert steps["prefill_tokens"].sum() == 3 * 64
    assert steps["decode_requests"].sum() == 3 * 15
    assert steps["decode_requests"].max() == 3


def test_the_two_engines_of_a_pair_record_their_own_parts(disaggregated, tiny):
    began = time.perf_counter()
    chosen = tolerant("disaggregated", seed=9, workload__output_tokens=6)
    (one, *_) = requests(point(chosen, 300, 1), tiny.vocabulary, 0)
    timeline = process_loop().run(disaggregated.serve(one, 0, 0.0))
    assert timeline.error is None
    prefill = steps_of(disaggregated.of_role("prefill")[0], began, expected=1)
    decode = steps_of(disaggregated.of_role("decode")[0], began, expected=6)
    assert prefill["prefill_tokens"].tolist() == [300]
    assert prefill["decode_requests"].tolist() == [0]
    # Decode computes the prompt's last token again: a step like any other of one token.
    assert decode["prefill_tokens"].sum() == 0
    assert decode["decode_kv_tokens"].tolist() == list(range(299, 305))
    # While the KV was on its way decode had nothing to compute: that is no part of its first step.
    _, _, read = disaggregated.of_role("decode")[0].counters.reads[-1]
    assert prefill["done"][-1] < read < (decode["done"] - decode["seconds"])[0]
