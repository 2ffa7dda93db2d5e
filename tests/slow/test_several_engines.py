"""Several engines of one role: requests are spread over them, every KV finds its way, and every check holds."""

import os
import signal
from collections import Counter

import pytest

from context_research.backends.registry import backend_of
from context_research.errors import UsageProblem
from context_research.measure.case import measure
from context_research.serving import build
from context_research.settings import sources
from context_research.workload.case import point
from tests.support.engines import start
from tests.support.settings import tolerant

CASE = (300, 3)
"""Prompt tokens, in flight."""


def engines(**roles):
    """``engines(prefill=2, decode=1)`` as a serving config has them."""
    return tuple({"name": f"{role}-{index}", "role": role} for role, count in roles.items() for index in range(count))


def spread(tmp_path, routing="least_loaded", **roles):
    handoff = "handoff: {}\n" if "decode" in roles else ""
    mode = "disaggregated" if "decode" in roles else "aggregated"
    path = tmp_path / "serving.yaml"
    path.write_text(f"mode: {mode}\nrouting: {routing}\n{handoff}engines: {list(engines(**roles))}\n")
    return tolerant(path, workload__requests=6, workload__repeats=1, workload__output_tokens=8)


@pytest.fixture(scope="module", params=[{"prefill": 2, "decode": 1}, {"prefill": 1, "decode": 2}], ids=["2+1", "1+2"])
def several(request, tmp_path_factory):
    """A topology of three engines, running, and its settings."""
    folder = tmp_path_factory.mktemp("several")
    settings = spread(folder, **request.param)
    topology = start(settings, folder)
    yield topology, settings
    topology.close()


def test_every_request_finishes_and_every_check_holds(several, tiny):
    topology, settings = several
    result = measure(point(settings, *CASE), tiny, topology)
    assert result.failure is None
    counted = result.proof.counted
    assert set(counted) == {"prefill", "decode"}
    assert len(counted["decode"].transfers) == 6 + 3 + 2


def test_the_least_loaded_engine_gets_the_next(several, tiny):
    """Three in flight over two engines: both work, and neither ever has all three."""
    topology, settings = several
    result = measure(point(settings, *CASE), tiny, topology)
    role = "prefill" if len(topology.of_role("prefill")) == 2 else "decode"
    served = Counter(getattr(timeline, f"{role}_engine") for timeline in result.timelines)
    assert set(served) == {f"{role}-0", f"{role}-1"}
    other = "decode" if role == "prefill" else "prefill"
    assert {getattr(timeline, f"{other}_engine") for timeline in result.timelines} == {f"{other}-0"}


def test_in_turn_each_gets_every_other_request(several, tiny):
    topology, settings = several
    in_turn = type(topology)(topology.backend, topology.engines, 60, "round_robin")
    result = measure(point(settings, *CASE), tiny, in_turn)
    assert result.failure is None
    role = "prefill" if len(topology.of_role("prefill")) == 2 else "decode"
    served = Counter(getattr(timeline, f"{role}_engine") for timeline in result.timelines)
    assert max(served.values()) - min(served.values()) <= 1


def test_a_dead_engine_among_several_is_named(several, tiny):
    """The last of these tests: nobody needs the three again."""
    topology, settings = several
    engine = topology.engines[1]
    for process in engine._cores:
        os.kill(process.pid, signal.SIGKILL)
    result = measure(point(settings, *CASE), tiny, topology)
    assert f"{engine.role} engine {engine.name!r}" in result.failure


def test_two_replicas_share_the_load(tmp_path, tiny):
    settings = spread(tmp_path, aggregated=2)
    topology = start(settings, tmp_path)
    try:
        result = measure(point(settings, *CASE), tiny, topology)
    finally:
        topology.close()
    assert result.failure is None
    served = Counter(timeline.decode_engine for timeline in result.timelines)
    assert set(served) == {"aggregated-0", "aggregated-1"}
    assert all(timeline.prefill_engine == timeline.decode_engine for timeline in result.timelines)


@pytest.mark.parametrize("name", ["aggregated-2x", "disaggregated-1p1d"])
def test_the_shipped_configs_take_two_devices(name):
    assert [placement.devices for placement in backend_of(tolerant(name)).placements] == [(0,), (1,)]


@pytest.mark.parametrize("name", ["aggregated-2x", "disaggregated-1p1d"])
def test_more_gpus_than_there_are_are_refused_in_one_line(name, monkeypatch):
    monkeypatch.setattr("context_research.hardware.devices.visible_gpus", lambda: ["0"])
    layer = sources.Layer("test", {"serving": name, "seed": 0, "device": "cuda"})
    settings = sources.resolve("e0", [layer], "cuda", "a test").settings
    with pytest.raises(UsageProblem, match=r"devices \[1\] are not here: the GPUs of this machine are \[0\]"):
        build.build(backend_of(settings), lambda placement: placement)
