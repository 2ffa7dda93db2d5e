"""Simulated engines against timelines that were added up by hand: vLLM's scheduler decides, the profile times it."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import yaml

from context_research.engines.simulated import modelled
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure import case as measure
from context_research.measure import waterfall
from context_research.models import hub
from context_research.settings.schema import Dtype
from context_research.workload.case import point
from tests.support.engines import start
from tests.support.machine import DELIVER, KV, POLL, link, profile, request, serve, settings, step, submit, whole

pytestmark = pytest.mark.simulated
SOON = 2**-10


@pytest.fixture
def running(tmp_path):
    """Makes topologies of simulated engines, closed in the end."""
    made = []

    def run(serving="aggregated", device="cpu", count=2, machine=None, **values):
        path = profile(tmp_path / "made.yaml", device, count, **(machine or {}))
        made.append(start(settings(path, serving, device, **values), tmp_path))
        return made[-1]

    yield run
    for topology in made:
        topology.close()


def gaps(timeline):
    return [later - earlier for earlier, later in pairwise(timeline.token_times)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_request_alone(running, device):
    (one,) = serve(running(device=device, count=1), (0, request("a", 256, 4)))
    assert (one.error, one.token_ids, one.finish_reason) == (None, [0] * 4, "length")
    assert one.prefill_queued == one.prefill_started == submit(256)
    assert one.prefill_finished == submit(256) + step(prefill=[(256, 0)])
    assert one.token_times[0] == one.prefill_finished + DELIVER
    assert gaps(one) == [step(decode=[256]), step(decode=[257]), step(decode=[258])]
    assert waterfall.parts(one) == {
        "client_wait": 0,
        "prefill_queue": submit(256),
        "prefill": step(prefill=[(256, 0)]),
        "unattributed": DELIVER,
    }


def test_a_long_prompt_takes_several_steps(running):
    (one,) = serve(running(engine__max_num_batched_tokens=128), (0, request("a", 300, 1)))
    chunks = [(128, 0), (128, 128), (44, 256)]
    assert one.prefill_finished - one.prefill_started == sum(step(prefill=[chunk]) for chunk in chunks)


def test_a_chunk_of_one_token_is_priced_as_a_decode(running):
    """vLLM's attention takes it for one."""
    (one,) = serve(running(engine__max_num_batched_tokens=128), (0, request("a", 257, 1)))
    expected = step(prefill=[(128, 0)]) + step(prefill=[(128, 128)]) + step(decode=[256])
    assert one.prefill_finished - one.prefill_started == expected


def test_a_request_that_arrives_during_a_step_waits_for_its_end(running):
    prefilled = submit(256) + step(prefill=[(256, 0)])
    arrives = prefilled + step(decode=[256]) / 2
    first, second = serve(running(), (0, request("a", 256, 4)), (arrives - submit(128), request("b", 128, 2)))
    assert second.prefill_queued == second.prefill_started == prefilled + step(decode=[256])
    both = step(prefill=[(128, 0)], decode=[257])
    assert second.prefill_finished - second.prefill_started == both
    assert gaps(first) == [step(decode=[256]), both, step(decode=[258, 128])]
    assert gaps(second) == [step(decode=[258, 128])]


def test_requests_that_are_due_together_reach_the_engine_one_after_another(running):
    """The client is one thread: the engine begins with the first alone, and they never move in step again."""
    first, second = serve(running(), (0, request("a", 128, 3)), (0, request("b", 128, 3)))
    assert first.prefill_started == submit(128)
    assert first.prefill_finished - first.prefill_started == step(prefill=[(128, 0)])
    assert second.prefill_started == first.prefill_finished
    both = step(prefill=[(128, 0)], decode=[128])
    assert gaps(first) == [both, step(decode=[129, 128])]
    assert gaps(second) == [step(decode=[129, 128]), step(decode=[129])]


def test_what_a_step_may_compute_is_vllms_to_decide(running):
    """512 tokens a step: the second prompt's first half goes with the first prompt, its rest with a decode."""
    first, second = serve(
        running(engine__max_num_batched_tokens=512), (0, request("a", 256, 2)), (0, request("b", 512, 1))
    )
    # The longer one is on its way longer.
    assert second.prefill_queued == submit(256) + step(prefill=[(256, 0)])
    assert second.prefill_finished == second.prefill_queued + step(decode=[256], prefill=[(511, 0)]) + step(
        decode=[511]
    )
    assert gaps(first) == [step(decode=[256], prefill=[(511, 0)])]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_that_ends_makes_room_for_the_next(running, device):
    """Nothing arrives that would wake the engine: with asynchronous scheduling the last batches were empty."""
    topology = running(device=device, count=1, engine__max_num_seqs=1, engine__max_num_batched_tokens=128)
    served = serve(topology, *((0, request(name, 128, 1)) for name in "abc"))
    assert [each.error for each in served] == [None] * 3
    for before, after in pairwise(served):
        assert after.prefill_started == before.prefill_finished
        assert after.prefill_finished == after.prefill_started + step(prefill=[(128, 0)])


def test_a_disaggregated_request_part_by_part(running):
    topology = running("disaggregated")
    prefill, decode = topology.engines
    (one,) = serve(topology, (0, request("a", 256, 3)))
    assert (one.error, len(one.token_ids)) == (None, 3)
    assert waterfall.parts(one) == {
        "client_wait": 0,
        "prefill_queue": submit(256),
        "prefill": step("prefill", [(256, 0)]),
        "handoff": link(256),
        # On its way to the engine; and the engine is told that the KV is there, pauses, and only then schedules.
        "decode_queue": submit(256) + POLL,
        # The prompt's last token is computed again.
        "first_decode_step": step("decode", decode=[255]),
        "unattributed": 2 * DELIVER,
    }
    assert gaps(one) == [step("decode", decode=[256]), step("decode", decode=[257])]
    assert decode.counters.transfers == [(link(256), 256 * KV)]
    assert (decode.counters.prompt_external, decode.counters.prompt_computed) == (256, 0)
    assert (prefill.counters.prompt_computed, prefill.counters.generated) == (256, 1)
    assert decode.counters.generated == 3
    assert whole(prefill)
    assert whole(decode)


def test_kv_is_read_in_whole_blocks(running):
    topology = running("disaggregated")
    (one,) = serve(topology, (0, request("a", 300, 2)))
    assert waterfall.parts(one)["handoff"] == link(384)
    assert topology.of_role("decode")[0].counters.transfers == [(link(384), 384 * KV)]


def test_kv_that_nobody_has_read_stays_on_the_prefill_engine(running):
    topology = running("disaggregated")
    prefill = topology.of_role("prefill")[0]
    topology.of_role("decode")[0].serve = _refuse
    (one,) = serve(topology, (0, request("a", 256, 3)))
    assert one.error == "not today"
    assert not whole(prefill)


async def _refuse(*_, **__):
    raise EngineFailure("not today")


def test_two_engines_on_one_gpu_slow_each_other(running):
    """The second prompt is computed while the first request decodes all the time: half the GPU for each."""
    topology = running("disaggregated", "cuda", count=1)
    assert [engine._placement.devices for engine in topology.engines] == [(0,), (0,)]
    (alone,) = serve(topology, (0, request("a", 512, 64)))
    first, second = serve(topology, (0, request("b", 512, 64)), (1, request("c", 512, 1)))
    assert first.token_times[0] < second.prefill_started < second.prefill_finished < first.token_times[-1]
    assert second.prefill_finished - second.prefill_started == pytest.approx(2 * step("prefill", [(512, 0)]), abs=1e-8)
    # Whatever the one has, the other has not.
    assert sum(gaps(first)) > sum(gaps(alone)) + step("prefill", [(512, 0)]) - 1e-8


def test_two_engines_on_a_gpu_each_do_not(running):
    topology = running("disaggregated", "cuda", count=2, devices=[0, 1])
    first, second = serve(topology, (0, request("b", 512, 64)), (1, request("c", 512, 1)))
    assert first.token_times[0] < second.prefill_started < second.prefill_finished < first.token_times[-1]
    assert second.prefill_finished - second.prefill_started == step("prefill", [(512, 0)])


def test_two_prefill_engines_and_one_decode_engine(running, tmp_path):
    engines = [
        {"name": "one", "role": "prefill"},
        {"name": "two", "role": "prefill"},
        {"name": "three", "role": "decode"},
    ]
    serving = tmp_path / "serving.yaml"
    serving.write_text(yaml.safe_dump({"mode": "disaggregated", "engines": engines, "handoff": {}}))
    topology = running(Path(serving), count=3)
    first, second = serve(topology, (0, request("a", 256, 2)), (0, request("b", 256, 2)))
    assert (first.error, second.error) == (None, None)
    assert (first.prefill_engine, second.prefill_engine) == ("one", "two")
    assert first.decode_engine == second.decode_engine == "three"
    for one in (first, second):
        assert waterfall.parts(one)["prefill"] == step("prefill", [(256, 0)])
        # Over the decode engine's one link, but for the time by which the second was sent later.
        assert waterfall.parts(one)["handoff"] == link(256, others=1) - submit(256)
    assert waterfall.parts(first)["first_decode_step"] == step("decode", decode=[255])
    # Told of its KV by the step that computes the first one's last token.
    assert waterfall.parts(second)["first_decode_step"] == step("decode", decode=[255])
    assert len(topology.of_role("decode")[0].counters.transfers) == 2
    assert all(whole(engine) for engine in topology.engines)


def test_a_prefix_that_is_cached_is_not_computed(running):
    topology = running()
    (first,) = serve(topology, (0, request("a", 300, 2, token=7)))
    (again,) = serve(topology, (0, request("b", 300, 2, token=7)))
    (other,) = serve(topology, (0, request("c", 300, 2, token=8)))
    assert [one.prefill_cached_tokens for one in (first, again, other)] == [0, 256, 0]
    assert again.prefill_finished - again.prefill_started == step(prefill=[(44, 256)])
    assert other.prefill_finished - other.prefill_started == step(prefill=[(300, 0)])


def test_a_case_that_declares_a_warm_cache_finds_one(running, tmp_path):
    topology = running(workload__cache="warm", workload__requests=2, workload__repeats=1, workload__output_tokens=2)
    chosen = topology.engines[0]._settings
    result = measure.measure(point(chosen, 256, 1), hub.resolve(chosen.model), topology)
    (cache,) = [check for check in result.checks if check.check == "cache"]
    assert (cache.status, result.failure) == ("pass", None)
    measured = [one for one in result.timelines if one.phase == "measured"]
    assert [one.prefill_cached_tokens for one in measured] == [128, 128]
    assert {one.prefill_finished - one.prefill_started for one in measured} == {step(prefill=[(128, 128)])}


def test_preemptions_are_counted(running):
    """Four blocks for each of two requests, and five that can be had: one waits until the other has ended."""
    topology = running(model__max_model_len=512, engine__kv_cache_memory_bytes=6 * 128 * KV)
    first, second = serve(topology, (0, request("a", 128, 300)), (0, request("b", 128, 300)))
    assert (first.error, second.error) == (None, None)
    assert len(first.token_ids) == len(second.token_ids) == 300
    assert topology.engines[0].counters.preemptions == 1
    assert second.token_times[-1] > first.token_times[-1]
    assert max(gaps(second)) > 50 * step(decode=[128])


def test_without_pressure_nothing_is_preempted(running):
    topology = running()
    serve(topology, (0, request("a", 128, 300)), (0, request("b", 128, 300)))
    assert topology.engines[0].counters.preemptions == 0


@pytest.mark.parametrize("serving", ["aggregated", "disaggregated"])
def test_a_timeout_frees_the_request(running, serving):
    topology = running(serving, workload__request_timeout_s=1)
    late, after = serve(topology, (0, request("a", 256, 1000)), (2, request("b", 256, 2)))
    role = "decode" if serving == "disaggregated" else "aggregated"
    assert late.error == f"no end after 1 s (on {role} engine '{topology.of_role(role)[0].name}')"
    assert 2 < len(late.token_times) < 1000
    assert after.error is None
    # Nothing else is in its steps.
    (alone,) = serve(topology, (0, request("c", 256, 2)))
    assert [moment - 2 for moment in after.token_times] == alone.token_times
    assert all(whole(engine) for engine in topology.engines)


@pytest.mark.parametrize("serving", ["aggregated", "disaggregated"])
def test_with_async_scheduling_requests_get_the_tokens_they_asked_for(running, serving):
    topology = running(serving, "cuda", count=2, devices=[0] if serving == "aggregated" else [0, 1])
    assert all(engine._config.scheduler_config.async_scheduling for engine in topology.engines)
    asked = [(number / 64, request(f"r{number}", 100 + 50 * number, 1 + 3 * number)) for number in range(8)]
    found = serve(topology, *asked)
    assert [one.error for one in found] == [None] * 8
    assert [len(one.token_times) for one in found] == [one.output_tokens for _, one in asked]
    assert all(whole(engine) for engine in topology.engines)


def test_the_same_requests_take_the_same_time_whenever_they_begin(running):
    topology = running("disaggregated")

    def times():
        asked = [(number / 100, request(f"r{number}", 100 + 37 * number, 5)) for number in range(8)]
        found = [one.token_times for one in serve(topology, *asked)]
        assert all(whole(engine) for engine in topology.engines)
        return found

    first = times()
    serve(topology, (1 / 3, request("between", 77, 3)))
    assert whole(topology.of_role("prefill")[0])
    assert whole(topology.of_role("decode")[0])
    assert times() == first


def test_an_engine_closes_twice_and_starts_again(running):
    topology = running("disaggregated")
    (before,) = serve(topology, (0, request("a", 256, 2)))
    topology.close()
    topology.close()
    assert all(engine.dead for engine in topology.engines)
    topology.start()
    (after,) = serve(topology, (0, request("a", 256, 2)))
    assert after.error is None
    assert after.token_times == before.token_times


class Broken:
    """A step-time model that fails at its fourth step."""

    def __init__(self, real):
        self._real, self._left = real, 3

    def of(self, batch):
        if not self._left:
            raise ZeroDivisionError("no kernel takes no time")
        self._left -= 1
        return self._real.of(batch)


def test_a_step_that_cannot_be_priced_fails_its_requests_by_the_engines_name(running):
    topology = running()
    engine = topology.engines[0]
    engine._step_times, real = Broken(engine._step_times), engine._step_times
    prefilled = submit(256) + step(prefill=[(256, 0)])
    dies = prefilled + step(decode=[256]) + step(decode=[257])
    found = serve(
        topology,
        (0, request("a", 256, 20)),
        (dies - SOON, request("b", 256, 20)),  # on its way to the engine when it dies
        (dies + SOON, request("c", 256, 20)),
    )
    told = "simulated engine 'aggregated' died: ZeroDivisionError: no kernel takes no time"
    assert [one.error for one in found] == [told] * 3
    assert len(found[0].token_times) == 3
    engine._step_times = real
    assert topology.revive() == "a request had failed"
    (after,) = serve(topology, (0, request("d", 256, 2)))
    assert after.error is None


def test_a_profile_without_this_engines_step_times_is_refused_before_it_starts(tmp_path):
    path = profile(tmp_path / "made.yaml", count=1)
    with pytest.raises(
        UsageProblem, match=r"has no step times for tiny-qwen3 .* in float16, aggregated on 1 device, only"
    ):
        start(settings(path, model__dtype="float16"), tmp_path)


def test_steps_outside_what_the_fit_knows_are_counted(tmp_path):
    path = profile(tmp_path / "made.yaml", ranges={"prefill_tokens": [0, 256]})
    topology = start(settings(path), tmp_path)
    serve(topology, (0, request("a", 256, 3)))
    counters = topology.engines[0].counters
    assert (counters.steps, counters.extrapolated) == (3, 0)
    serve(topology, (0, request("b", 257, 3)))
    assert (counters.steps, counters.extrapolated) == (6, 1)
    topology.close()


def test_engines_beside_each_other_slow_each_other_down_as_calibrated(running, tmp_path):
    """On one CPU machine, with cores of their own: a decode of 3 steps begins while the next prompt is prefilled."""
    topology = running("disaggregated", machine={"contention": 1.0})
    first, second = serve(topology, (0, request("a", 256, 3)), (0, request("b", 2048, 1)))
    alone = running("disaggregated")
    first_alone, second_alone = serve(alone, (0, request("a", 256, 3)), (0, request("b", 2048, 1)))
    assert gaps(first_alone) == [step("decode", decode=[256]), step("decode", decode=[257])]
    assert gaps(first) == [2 * gap for gap in gaps(first_alone)]
    assert second.prefill_finished > second_alone.prefill_finished


def test_without_a_progress_thread_a_read_waits_for_the_end_of_the_prefill_engines_step(running):
    topology = running("disaggregated", machine={"between_steps": True})
    first, second = serve(topology, (0, request("a", 256, 1)), (0, request("b", 2048, 1)))
    # The second prompt's prefill began when the first's ended.
    assert first.handoff_finished == second.prefill_finished + link(256)


def test_what_is_modelled_is_called_as_vllm_calls_it():
    """And what is let by at the value that it has unasked has that in vLLM."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert modelled._SCHEDULER | modelled._NO_TIME | modelled._AS_IT_IS.keys() <= known
    unasked = AsyncEngineArgs()
    assert {name: getattr(unasked, name) for name in modelled._AS_IT_IS} == modelled._AS_IT_IS


def test_dtypes_are_vllm_s():
    from vllm.config.model import ModelDType

    assert set(get_args(ModelDType)) == set(get_args(Dtype))
