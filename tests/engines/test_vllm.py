"""The real engine: what it generates, says of itself, and does when it is cut off."""

import asyncio
import os

import psutil
import pytest

from context_research.engines.loop import process_loop
from context_research.engines.vllm.engine import VllmEngine
from context_research.engines.vllm.handoff import connector
from context_research.request import Leg
from context_research.settings.schema import Handoff
from tests.support.engines import generate, prompt, request


def test_generates_exactly_the_tokens_asked_for(aggregated):
    leg = generate(aggregated.decoders[0], "exact", prompt(1), 23)
    assert len(leg.token_ids) == len(leg.token_times) == 23
    assert leg.finish_reason == "length"
    assert all(0 <= token < 16384 for token in leg.token_ids)


def test_engine_and_client_times_are_of_one_clock(aggregated):
    leg = generate(aggregated.decoders[0], "clock", prompt(2))
    moments = [leg.sent, leg.queued, leg.started, leg.first_token, *leg.token_times]
    assert moments == sorted(moments)


@pytest.mark.parametrize("changed", [0, 500, 990], ids=["first", "middle", "late"])
def test_seeded_weights_let_one_prompt_token_of_a_thousand_show(aggregated, changed):
    ids = prompt(3)
    other = [*ids[:changed], ids[changed] ^ 1, *ids[changed + 1 :]]
    assert (
        generate(aggregated.decoders[0], "same", ids, 40).token_ids
        != generate(aggregated.decoders[0], f"other{changed}", other, 40).token_ids
    )


def test_counts_what_it_computed_and_what_its_prefix_cache_spared(aggregated):
    engine, ids = aggregated.decoders[0], prompt(4, 512)
    before = engine.counters.snapshot()
    generate(engine, "cold", ids)
    cold = engine.counters.since(before)
    warm = generate(engine, "warm", ids)
    both = engine.counters.since(before)
    assert (cold.prompt_computed, cold.prompt_cached, cold.generated) == (512, 0, 8)
    assert both.prompt_cached == warm.cached_tokens > 0
    assert both.prompt_computed == 512 + 512 - warm.cached_tokens
    assert (both.preemptions, both.faults, both.transfers) == (0, {}, [])


def test_a_cut_off_request_keeps_its_tokens_and_frees_the_engine(aggregated):
    engine, leg = aggregated.decoders[0], Leg("cut")

    async def cut():
        task = asyncio.create_task(engine.serve(request("cut", prompt(5)), leg, output_tokens=4000, handoff=None))
        while not leg.token_ids and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    process_loop().run(cut())
    assert 0 < len(leg.token_ids) < 4000
    assert len(generate(engine, "after", prompt(6)).token_ids) == 8


def test_describes_where_and_how_it_runs(aggregated):
    described = aggregated.decoders[0].describe()
    assert described["role"] == "aggregated"
    assert described["vllm_config"]["cache"]["kv_cache_memory_bytes"] == described["kv_pool_bytes"] == 512 << 20
    assert described["vllm_config"]["load"]["load_format"] == "seeded"
    assert described["pids"]
    assert all(psutil.pid_exists(pid) for pid in described["pids"])


def test_starting_leaves_the_environment_as_it_was(aggregated):
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ
    assert os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") != "fork"


@pytest.mark.parametrize("asked", [False, True])
def test_batch_invariant_kernels_are_the_setting_s_to_choose(aggregated, asked):
    engine = aggregated.decoders[0]
    own = engine._settings.engine.model_copy(update={"batch_invariant": asked})
    other = VllmEngine(
        engine._settings.model_copy(update={"engine": own}), engine._model, engine._placement, engine.log
    )
    assert other.environment()["VLLM_BATCH_INVARIANT"] == ("1" if asked else None)


def test_what_vllm_compiles_for_one_engine_of_a_handoff_serves_every_later_one(monkeypatch):
    from vllm import envs

    def key():
        for name, value in connector(Handoff(), "prefill", "cuda")[1].items():
            monkeypatch.setenv(name, value)
        return envs.compile_factors()

    first = key()
    assert first == key()
    monkeypatch.setenv("VLLM_NIXL_SIDE_CHANNEL_PORT", "5601")  # else this test, and one port for all, are for nothing
    assert envs.compile_factors() != first
