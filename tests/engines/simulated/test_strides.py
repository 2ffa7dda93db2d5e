"""Decode steps that are taken many at once: every figure is the same to the last bit as of steps taken one by one."""

import asyncio
from dataclasses import asdict

import numpy as np
import pytest

from context_research.engines.simulated import engine as simulated
from tests.support.engines import start
from tests.support.machine import DELIVER, KV, profile, request, serve, settings, step, submit, whole

pytestmark = pytest.mark.simulated


@pytest.fixture
def sides(tmp_path):
    """Makes a topology whose engines take strides, and the same without; closed in the end."""
    made = []

    def run(serving="aggregated", device="cpu", count=2, machine=None, **values):
        path = profile(tmp_path / f"made-{len(made)}.yaml", device, count, **(machine or {}))
        for strides in (True, False):
            made.append(start(settings(path, serving, device, **values), tmp_path))
            for engine in made[-1].engines:
                engine.strides = strides
        return made[-2:]

    yield run
    for topology in made:
        topology.close()


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """How many steps each stride had, in all that follows."""
    lengths = []
    take = simulated.SimulatedEngine._take

    async def counted(self, stride):
        await take(self, stride)
        lengths.append(len(stride.usage))

    monkeypatch.setattr(simulated.SimulatedEngine, "_take", counted)
    return lengths


def left(topology, *asked):
    """All that a run has of requests and engines."""
    timelines = serve(topology, *asked)
    topology.backend.loop.run(asyncio.sleep(60))  # after a timeout a step may still be under way
    counters = [asdict(engine.counters) for engine in topology.engines]
    emptied = [whole(engine) for engine in topology.engines]
    requests = [asdict(each) for each in timelines]
    for leg in (leg for each in requests for leg in each["legs"]):
        del leg["handoff"]  # it names the engine, by an id of each start
    return requests, counters, emptied


def first_difference(one, other, path=""):
    """Where two runs differ, as deep as one can say."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(number, *each) for number, each in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else f"{path}: {one!r:.300} is not {other!r:.300}"
    return next(filter(None, (first_difference(a, b, f"{path}.{key}") for key, a, b in pairs)), None)


def workload(seed, count=24, longest=300, over=3.0):
    """Requests that come at moments that no clock has, some beginnings shared."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        token = int(rng.integers(1000, 1004)) if rng.random() < 0.4 else None
        asked = request(f"r{seed}-{number}", int(rng.integers(2, 700)), int(rng.integers(1, longest)), token=token)
        yield float(rng.random() * over), asked


LOADS = {
    "plenty": {},
    "short of blocks": {"engine__kv_cache_memory_bytes": 20 * 128 * KV, "model__max_model_len": 1024},
    "few at a time": {"engine__max_num_seqs": 3},
    "chunked": {"engine__max_num_batched_tokens": 128},
    "impatient": {"workload__request_timeout_s": 0.9},
    "small blocks": {"engine__block_size": 32},
}


KINDS = [(serving, load) for serving in ("aggregated", "disaggregated") for load in LOADS]


@pytest.mark.parametrize(("serving", "load"), [*KINDS, ("sharing", "plenty"), ("sharing", "short of blocks")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_figures_are_the_same_to_the_last_bit(sides, taken, serving, device, load):
    """On CPUs all engines share the machine, and reads wait for a step's end; GPUs have asynchronous scheduling."""
    values = dict(LOADS[load])
    if device == "cuda":
        values["devices"] = [0, 1] if serving == "disaggregated" else [0]
    machine = {"contention": 0.37, "between_steps": serving == "sharing"} if device == "cpu" else {}
    mode = "aggregated" if serving == "aggregated" else "disaggregated"
    strided, ordinary = sides(mode, device, machine=machine, **values)
    for seed in range(2):
        asked = list(workload(seed))
        before = len(taken)
        found = left(strided, *asked)
        assert sum(taken[before:]) > len(taken[before:]) > 0
        before = len(taken)
        assert first_difference(left(ordinary, *asked), found) is None
        assert len(taken) == before


def test_an_arrival_at_the_very_end_of_a_step_is_taken_in_after_it(sides, taken):
    """Also where that end lies within a stride."""
    prefilled = submit(256) + step(prefill=[(256, 0)])
    arrives = prefilled + sum(step(decode=[256 + number]) for number in range(5))
    asked = [(0, request("a", 256, 20)), (arrives - submit(128), request("b", 128, 2))]
    strided, ordinary = sides()
    found = left(strided, *asked)
    assert left(ordinary, *asked) == found
    assert taken[0] == 5
    assert found[0][1]["legs"][0]["started"] == arrives


def test_a_request_alone_takes_one_stride(sides, taken):
    strided, _ = sides()
    (one,) = serve(strided, (0, request("a", 256, 40)))
    assert taken == [38]
    times = [submit(256) + step(prefill=[(256, 0)]) + DELIVER]
    for number in range(39):
        times.append(times[-1] + step(decode=[256 + number]))
    assert one.token_times == times
    assert one.token_ids == [0] * 40
