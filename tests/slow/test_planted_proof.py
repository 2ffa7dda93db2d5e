"""Defects that every count hides, planted in running engines: KV that is a little wrong, clocks, tokens, processes."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial

import psutil
import pytest

from context_research.hardware.devices import lasting_names
from context_research.hardware.locks import Hold
from context_research.measure.checks import evidence
from context_research.measure.checks.kv_probe import TOKENS
from context_research.request import Leg
from tests.support.engines import Changed, start
from tests.support.planted import failed, judged, kill, swapping, with_engines
from tests.support.settings import small

CASE = (600, 2)
"""Five blocks a prompt."""
DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module", params=DTYPES)
def faulty(request, tmp_path_factory):
    """A pair whose connector damages what it delivered as a file says; (settings, topology, that file)."""
    folder = tmp_path_factory.mktemp("faulty")
    fault = folder / "fault"
    fault.touch()
    chosen = small(
        model__dtype=request.param, serving__handoff__connector_module="benchmarks.studies.proof.damaging_nixl"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTEXT_RESEARCH_TEST_FAULT", str(fault))  # read by that connector
        with closing(start(chosen, folder)) as topology:
            yield chosen, topology, fault


@pytest.fixture
def judge(tmp_path):
    """Measures a small case on a topology; the parity reference is made anew."""
    return partial(judged, tmp_path)


def caught(result):
    return set(failed(result)) - {"client"}


def decoding(topology, changed):
    """The pair, its decode engine wrapped in `changed`."""
    return with_engines(topology, topology.of_role("prefill")[0], changed(topology.of_role("decode")[0]))


def of(result, check):
    return next(each for each in result.checks if each.check == check)


def test_sound_kv_raises_nothing(faulty, judge):
    chosen, topology, fault = faulty
    fault.write_text("")
    result = judge(topology, chosen, CASE)
    assert caught(result) == set()
    assert {of(result, name).status for name in ("kv", "first_token", "tokens", "clock", "machine")} == {"pass"}


@pytest.mark.parametrize(
    "damage",
    [
        *("all:zero", "k:zero", "v:zero", "all:shift", "layer:0:zero", "layer:-1:zero", "block:0:zero", "block:2:zero"),
        *("lastblock:0:zero", "lastblock:3:zero", "all:int8", "all:fp8", "all:noise=0.01"),
    ],
)
def test_damaged_kv_is_caught(faulty, judge, damage):
    chosen, topology, fault = faulty
    fault.write_text(damage)
    assert "kv" in caught(judge(topology, chosen, CASE))


def test_kv_of_half_the_precision_is_caught(faulty, judge):
    """In bfloat16 it has that precision already, and nothing is wrong."""
    chosen, topology, fault = faulty
    fault.write_text("all:bf16")
    assert caught(judge(topology, chosen, CASE)) == ({"kv"} if chosen.model.dtype == "float32" else set())


def test_damaged_kv_is_caught_where_tokens_are_sampled(faulty, judge):
    chosen, topology, fault = faulty
    sampled = chosen.model_copy(update={"workload": chosen.workload.model_copy(update={"temperature": 0.8})})
    fault.write_text("")
    assert caught(judge(topology, sampled, CASE)) == set()
    fault.write_text("lastblock:1:zero")
    assert "kv" in caught(judge(topology, sampled, CASE))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_another_requests_kv_is_caught_whoever_is_in_the_sample(faulty, judge, temperature):
    """Half of the requests, in pairs, have each other's."""
    chosen, topology, fault = faulty
    fault.write_text("")
    load = {"temperature": temperature, "requests": 17}  # twenty in all, so that every one has a partner
    more = chosen.model_copy(update={"workload": chosen.workload.model_copy(update=load)})
    assert "first_token" in caught(judge(swapping(topology, every=2), more, CASE))


def test_one_request_of_many_with_another_prompt_is_caught(faulty, judge):
    """Its KV is right, the token that decode goes on from is not."""
    chosen, topology, fault = faulty
    fault.write_text("")

    class Decode(Changed):
        async def serve(self, request, leg, **options):
            if request.id.endswith("repeat0-0004"):
                object.__setattr__(request, "prompt", [*request.prompt[:-1], request.prompt[0]])
            await self._engine.serve(request, leg, **options)

    assert "first_token" in caught(judge(decoding(topology, Decode), chosen, CASE))


@pytest.mark.parametrize("seconds", [0.005, 0.02, -0.005])
def test_decode_times_that_are_shifted_are_caught(disaggregated, judge, seconds):
    class Decode(Changed):
        async def serve(self, request, leg, **options):
            await self._engine.serve(request, leg, **options)
            leg.token_times[:] = [at + seconds for at in leg.token_times]

    assert "clock" in caught(judge(decoding(disaggregated, Decode)))


@pytest.mark.parametrize("which", ["first", "last", "every other"])
def test_some_tokens_that_are_late_are_caught(aggregated, judge, which):
    """20 ms, of one token in each request, or of half of them."""
    late = {"first": slice(0, 1), "last": slice(-1, None), "every other": slice(0, None, 2)}[which]

    class Late(Changed):
        async def serve(self, request, leg, **options):
            await self._engine.serve(request, leg, **options)
            leg.token_times[late] = [at + 0.02 for at in leg.token_times[late]]

    planted = with_engines(aggregated, Late(aggregated.of_role("aggregated")[0]))
    assert "clock" in caught(judge(planted, small("aggregated")))


def test_more_requests_in_flight_than_the_load_says_are_caught(aggregated, judge):
    """A client that takes an answer for ended before its last token."""

    class Eager(Changed):
        async def serve(self, request, leg, **options):
            if "repeat" not in request.id:
                return await self._engine.serve(request, leg, **options)
            serving = asyncio.create_task(self._engine.serve(request, leg, **options))
            self._tasks = [*getattr(self, "_tasks", []), serving]
            while not leg.token_times:
                await asyncio.sleep(0.001)
            if len(self._tasks) % 2:
                await serving
            return None

    planted = with_engines(aggregated, Eager(aggregated.of_role("aggregated")[0]))
    assert {"clock", "complete"} & caught(judge(planted, small("aggregated")))


class Padded(Changed):
    """An engine that makes two tokens fewer than it was asked for, and repeats its last one."""

    async def serve(self, request, leg, *, output_tokens, **options):
        await self._engine.serve(request, leg, output_tokens=max(1, output_tokens - 2), **options)
        missing = output_tokens - len(leg.token_ids)
        leg.token_ids += leg.token_ids[-1:] * missing
        leg.token_times += leg.token_times[-1:] * missing


def test_an_engine_that_clamps_its_output_and_pads_it_is_caught(aggregated, judge):
    planted = with_engines(aggregated, Padded(aggregated.of_role("aggregated")[0]))
    assert caught(judge(planted, small("aggregated"))) == {"tokens"}


def test_a_decode_engine_that_clamps_its_output_and_pads_it_is_caught(disaggregated, judge):
    assert "tokens" in caught(judge(decoding(disaggregated, Padded)))


def test_an_engine_that_cuts_prompts_is_caught(aggregated, judge):
    class Cut(Changed):
        async def serve(self, request, leg, **options):
            cut = replace(request, prompt=request.prompt[: max(1, len(request.prompt) * 3 // 4)])
            await self._engine.serve(cut, leg, **options)

    planted = with_engines(aggregated, Cut(aggregated.of_role("aggregated")[0]))
    assert "tokens" in caught(judge(planted, small("aggregated")))


def test_answers_from_another_engine_than_is_said_are_caught(disaggregated, judge):
    """The prefill engine decodes, too: no transfer is waited for, and decode's counts stand still."""
    prefill = disaggregated.of_role("prefill")[0]

    class Decode(Changed):
        async def serve(self, request, leg, *, handoff, **options):
            if handoff is None or "repeat" not in request.id:
                return await self._engine.serve(request, leg, handoff=handoff, **options)
            own = Leg(prefill.name)
            await prefill.serve(request, own, handoff=None, **options)
            leg.token_ids[:], leg.token_times[:] = own.token_ids, own.token_times
            leg.sent, leg.finish_reason, leg.cached_tokens = own.sent, own.finish_reason, len(request.prompt) - 1
            return None

    assert {"tokens", "disaggregated"} <= caught(judge(decoding(disaggregated, Decode)))


@pytest.mark.parametrize("by", ["its own close and start", "a kill"])
def test_an_engine_restarted_after_the_warm_up_is_caught(tmp_path, judge, by, monkeypatch):
    monkeypatch.setattr(evidence, "_SETTLE_S", 120)  # a restart takes longer on a busy machine
    with closing(start(small("aggregated"), tmp_path)) as topology:
        engine, restarts = topology.engines[0], itertools.count()

        class Restarting(Changed):
            async def reset_prefix_cache(self):
                if next(restarts) == 1:  # the first empties it for the reference
                    if by == "a kill":
                        kill(self._engine)
                    await asyncio.to_thread(restart)
                return await self._engine.reset_prefix_cache()

        def restart():
            """On another thread as the loop runs this: the engine's own check is for pytest's sessions."""
            engine.close()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("threading.main_thread", __import__("threading").current_thread)
                engine.start()

        found = failed(judge(with_engines(topology, Restarting(engine)), small("aggregated")))
    assert "engine 'aggregated' was restarted during the case" in found["complete"]


def test_a_niced_engine_is_caught(tmp_path, judge):
    with closing(start(small(), tmp_path)) as topology:
        psutil.Process(topology.of_role("decode")[0].processes[0].pid).nice(19)
        found = failed(judge(topology))
    assert "engine decode has niceness 19, the client 0" in found["machine"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two engines need two cores")
def test_engines_on_one_core_are_caught(tmp_path, judge):
    with closing(start(small(), tmp_path)) as topology:
        core = topology.of_role("prefill")[0]._placement.devices
        for thread in psutil.Process(topology.of_role("decode")[0].processes[0].pid).threads():
            os.sched_setaffinity(thread.id, core)
        found = failed(judge(topology))
    assert "engine decode may use cores" in found["machine"]


def test_engines_have_their_own_cores(disaggregated):
    """vLLM's NIXL connector binds every engine's thread to the machine's last core."""
    for engine in disaggregated.engines:
        main = psutil.Process(engine.processes[0].pid)
        assert main.cpu_affinity() == list(engine._placement.devices)


def test_other_work_on_the_cores_is_caught(aggregated, judge):
    chosen = small("aggregated", machine__other_load=0.25, workload__output_tokens=100)
    burn = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    burning = [subprocess.Popen([sys.executable, "-c", burn], start_new_session=True) for _ in range(2)]
    try:
        time.sleep(0.5)
        # They are children of this process, as engines are: another session's would be.
        with pytest.MonkeyPatch.context() as patch:
            own = psutil.Process.children
            pids = {process.pid for process in burning}
            patch.setattr(psutil.Process, "children", lambda *a, **k: [c for c in own(*a, **k) if c.pid not in pids])
            found = failed(judge(aggregated, chosen))
    finally:
        for process in burning:
            process.kill()
            process.wait()
    assert "that is too much" in found["machine"]


def test_the_proof_of_a_case_is_in_few_positions(disaggregated, judge):
    """What is served beside the load is one request of a few tokens, however many the load has."""
    result = judge(disaggregated)
    assert [probe.positions for probe in result.proof.probes] == [TOKENS]


def test_a_second_run_on_the_same_cores_is_refused_before_an_engine_starts(suite, monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_SHARE_DEVICES", "no")
    held = Hold(lasting_names("cpu", os.sched_getaffinity(0)), "run other")
    try:
        ended = suite.outside("--seed=0", "--prompt-lengths=64", "--concurrency=1")
    finally:
        held.release()
    assert ended.ret != 0
    assert f"is in use by run other (pid {os.getpid()})" in ended.stdout.str()
    assert not list(suite.path.rglob("aggregated.log"))
