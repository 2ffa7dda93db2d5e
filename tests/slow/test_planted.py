"""Every way in which a run lies in silence, planted in running engines: the check named for it must catch it.

A pair that a defect breaks is restarted by the next test that needs it; `disaggregated` and `aggregated` stay sound.
"""

import asyncio
import gc
import os
import time
from contextlib import closing
from functools import partial

import pytest

from context_research.engines.vllm import handoff
from context_research.measure.checks import evidence
from tests.support.engines import Changed, start
from tests.support.planted import failed, judged, kill, swapping, with_engines
from tests.support.settings import small

CASE = (300, 2)
"""Prompt tokens, in flight."""


@pytest.fixture
def judge(tmp_path):
    """Measures a small case on a topology; the parity reference is made anew."""
    return partial(judged, tmp_path)


def failed_twice(judge, *run):
    """What failed in a sound run, made again, once, where only the client was late: shared machines stall at times."""
    found = failed(judge(*run))
    return failed(judge(*run)) if found and set(found) <= {"client", "clock"} else found


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A pair for defects that break it; its KV leases end after 3 s."""
    chosen = small(serving__handoff__extra_config={"kv_lease_duration": 3})
    topology = start(chosen, tmp_path_factory.mktemp("victim"))
    yield topology
    topology.close()


@pytest.fixture
def pair(victim):
    """`victim`, whole again."""
    victim.revive()
    return victim


CLEAN_RUNS = int(os.environ.get("CLEAN_RUNS", "3"))
"""Of either mode; before a release 10 (tests/README.md)."""


@pytest.fixture(scope="module")
def sixteen_bits(tmp_path_factory):
    """Either mode's engines in bfloat16, started when they are first asked for."""
    running = {}

    def of(serving):
        if serving not in running:
            chosen = small(serving, model__dtype="bfloat16")
            running[serving] = start(chosen, tmp_path_factory.mktemp(serving))
        return running[serving]

    yield of
    for topology in running.values():
        topology.close()


@pytest.mark.parametrize("serving", ["disaggregated", "aggregated"])
@pytest.mark.parametrize("seed", range(CLEAN_RUNS))
def test_clean_runs_pass(request, judge, serving, seed):
    assert failed_twice(judge, request.getfixturevalue(serving), small(serving, seed=seed)) == {}


@pytest.mark.parametrize("serving", ["disaggregated", "aggregated"])
@pytest.mark.parametrize("seed", range(CLEAN_RUNS))
def test_clean_runs_in_sixteen_bits_pass(sixteen_bits, judge, serving, seed):
    chosen = small(serving, seed=seed, model__dtype="bfloat16")
    assert failed_twice(judge, sixteen_bits(serving), chosen) == {}


def test_a_prompt_recomputed_on_decode_is_caught(tmp_path, judge):
    """`recompute` hides a transfer that fails, here as the prefill engine is killed before decode fetches."""
    chosen = small(serving__handoff__load_failure_policy="recompute")
    with closing(start(chosen, tmp_path)) as topology:

        class Decode(Changed):
            async def serve(self, request, leg, **options):
                if "repeat" in request.id:
                    kill(topology.of_role("prefill")[0])
                await self._engine.serve(request, leg, **options)

        planted = with_engines(topology, topology.of_role("prefill")[0], Decode(topology.of_role("decode")[0]))
        assert "disaggregated" in failed(judge(planted, chosen, (300, 1)))


def test_a_decode_leg_without_parameters_is_caught(disaggregated, judge, monkeypatch):
    monkeypatch.setattr(handoff, "PREFILL_PARAMETERS", {})
    monkeypatch.setattr(handoff, "guarded", lambda _: {})
    found = failed(judge(disaggregated))
    assert "0 of " in found["disaggregated"]


def test_another_requests_kv_is_caught(disaggregated, judge):
    assert set(failed(judge(swapping(disaggregated)))) - {"client"} == {"parity", "first_token"}


def test_another_requests_kv_is_caught_in_sixteen_bits_too(tmp_path, judge):
    """Where near-ties pass."""
    chosen = small(model__dtype="bfloat16")
    with closing(start(chosen, tmp_path)) as topology:
        assert set(failed(judge(topology, chosen))) - {"client"} == set()
        assert set(failed(judge(swapping(topology), chosen))) - {"client"} == {"parity", "first_token"}


def test_an_expired_lease_is_caught(pair, judge):
    class Decode(Changed):
        async def serve(self, request, leg, **options):
            if request.id.endswith("repeat0-0002"):
                await asyncio.sleep(5)
            await self._engine.serve(request, leg, **options)

    planted = with_engines(pair, pair.of_role("prefill")[0], Decode(pair.of_role("decode")[0]), timeout_s=8)
    found = failed(judge(planted, case=(300, 1)))
    assert "expir" in found["disaggregated"]


def test_outputs_cut_short_are_caught(aggregated, judge):
    class Short(Changed):
        async def serve(self, request, leg, *, output_tokens, **options):
            await self._engine.serve(request, leg, output_tokens=max(1, output_tokens - 1), **options)

    found = failed(judge(with_engines(aggregated, Short(aggregated.of_role("aggregated")[0])), small("aggregated")))
    assert "7 of 8 tokens" in found["complete"]


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_prefill_engine_killed_around_a_transfer_is_caught(pair, judge, when):
    prefill = pair.of_role("prefill")[0]

    class Decode(Changed):
        async def serve(self, request, leg, **options):
            doomed = request.id.endswith("repeat0-0001")
            if doomed and when == "before":
                kill(prefill)
            served = asyncio.create_task(self._engine.serve(request, leg, **options))
            if doomed and when != "before":
                while when == "after" and not leg.token_times:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0)  # the request is on its way
                kill(prefill)
            await served

    planted = with_engines(pair, prefill, Decode(pair.of_role("decode")[0]))
    found = failed(judge(planted, case=(300, 1)))
    assert "prefill" in found["complete"]
    assert "died" in found["complete"]


def test_a_decode_engine_killed_is_caught(pair, judge):
    class Decode(Changed):
        async def serve(self, request, leg, **options):
            if request.id.endswith("repeat0-0001"):
                kill(self._engine)
            await self._engine.serve(request, leg, **options)

    found = failed(judge(with_engines(pair, pair.of_role("prefill")[0], Decode(pair.of_role("decode")[0]))))
    assert "decode engine 'decode' died" in found["complete"]


def test_a_warm_cache_claimed_cold_is_caught(aggregated, judge):
    class Kept(Changed):
        async def reset_prefix_cache(self):
            return True

    planted = with_engines(aggregated, Kept(aggregated.of_role("aggregated")[0]))
    judge(planted, small("aggregated", seed=77))
    found = failed(judge(planted, small("aggregated", seed=77)))
    assert "8 of 8 requests had others, such as 256" in found["cache"]


def test_a_cache_that_can_not_be_emptied_is_caught(aggregated, judge, monkeypatch):
    class Pinned(Changed):
        async def reset_prefix_cache(self):
            return False

    monkeypatch.setattr(evidence, "_SETTLE_S", 0.2)
    planted = with_engines(aggregated, Pinned(aggregated.of_role("aggregated")[0]))
    assert "could not be emptied" in failed(judge(planted, small("aggregated")))["cache"]


def test_a_blocked_client_is_caught(aggregated, judge):
    class Blocking(Changed):
        async def serve(self, request, leg, **options):
            if request.id.endswith("repeat0-0003"):
                time.sleep(0.2)
            await self._engine.serve(request, leg, **options)

    planted = with_engines(aggregated, Blocking(aggregated.of_role("aggregated")[0]))
    assert "event loop" in failed(judge(planted, small("aggregated")))["client"]


def test_collecting_garbage_amid_requests_does_not_block_the_client(aggregated, judge):
    """A full collection that walked all that vLLM and torch imported would take half a second."""

    class Collecting(Changed):
        async def serve(self, request, leg, **options):
            gc.collect()
            await self._engine.serve(request, leg, **options)

    planted = with_engines(aggregated, Collecting(aggregated.of_role("aggregated")[0]))
    assert failed_twice(judge, planted, small("aggregated")) == {}


def test_a_transport_over_tcp_is_caught(tmp_path, judge, monkeypatch):
    monkeypatch.setenv("UCX_TLS", "tcp,self")
    with closing(start(small(), tmp_path)) as topology:
        found = failed(judge(topology))
    assert "tcp" in found["transport"]
    assert "UCX_TLS" in found["transport"]


def test_a_slowed_transport_is_caught(tmp_path, judge):
    chosen = small(serving__handoff__connector_module="tests.support.slow_nixl")
    with closing(start(chosen, tmp_path)) as topology:
        found = failed(judge(topology, chosen))
    assert "slower than" in found["transport"]


def test_a_preemption_is_caught_unless_declared(tmp_path, judge):
    """Two requests that grow to three blocks each, in a pool of four."""
    chosen = small(
        "aggregated",
        workload__output_tokens=200,
        workload__requests=2,
        model__max_model_len=384,
        engine__kv_cache_memory_bytes=5 * 128 * 4096,
    )
    with closing(start(chosen, tmp_path)) as topology:
        case = (64, 2)
        assert "pressure" in failed(judge(topology, chosen, case))
        declared = chosen.workload.model_copy(update={"allow_preemptions": True})
        assert "pressure" not in failed(judge(topology, chosen.model_copy(update={"workload": declared}), case))
