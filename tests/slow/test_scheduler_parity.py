"""Simulated engines make the batches that real ones make (scheduler_parity.py runs 200 workloads)."""

from dataclasses import replace
from functools import partial

import pytest

from tests.support import scheduler_parity as parity
from tests.support.strided_core import state, unequal


def sim_only(mode, shape, folder, seeds, **how):
    """Rounds of workloads on simulated engines alone, and whether their pools were whole after each."""
    with parity.simulated_engines(mode, shape, folder, **how) as cores:
        if len(cores) == 2:
            parity.read_at_once(*cores)
        for seed in seeds:
            arrivals = parity.workload(seed)
            rounds = parity.drive(cores, arrivals)
            yield arrivals, rounds, [core.reset() for core in cores]


@pytest.mark.parametrize(
    ("mode", "shape", "workloads"), [("aggregated", "narrow", 16), ("disaggregated", "many", 8)], ids=parity.MODES
)
def test_batches_equal_those_of_real_engines(mode, shape, workloads, tmp_path):
    outcomes = parity.run(mode, parity.SHAPES[shape], range(workloads), tmp_path)
    assert [one for one in outcomes if one.differs or one.problems] == []
    seen = parity.totals(outcomes)
    assert min(seen[f"with_{kind}"] for kind in ("chunked_prefills", "prefix_hits", "preemptions")) >= workloads // 4
    assert (seen["late_kv_reads"] > 0) == (mode == "disaggregated")


def test_the_comparison_notices_an_engine_that_is_another(tmp_path):
    def rounds(**change):
        shape = replace(parity.SHAPES["tight"], **change)
        return [rounds for _, rounds, _ in sim_only("aggregated", shape, tmp_path, range(8))]

    def differing(others):
        return [parity.difference(*pair) is not None for pair in zip(own, others, strict=True)]

    own = rounds()
    assert not any(differing(rounds()))
    for change in ({"blocks": 13}, {"batched_tokens": 95}, {"sequences": 3}):
        assert any(differing(rounds(**change))), change


def same(expected, cores):
    """Between two strides a core is in the state in which the other is after as many steps."""
    for core, other in zip(cores, next(expected), strict=True):
        if core.between:
            assert [*unequal(other, state(core))] == []


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("shape", parity.SHAPES)
@pytest.mark.parametrize("mode", parity.MODES)
def test_strides_leave_the_state_that_single_steps_leave(mode, shape, asynchronous, tmp_path, monkeypatch):
    """Not only the same batches: every request, block, queue and count of the scheduler, after every stride."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # of each core's hashes of blocks
    shape, how = parity.SHAPES[shape], {"asynchronous": asynchronous}
    with (
        parity.simulated_engines(mode, shape, tmp_path, **how) as ordinary,
        parity.simulated_engines(mode, shape, tmp_path, strided=True, **how) as strided,
    ):
        if mode == "disaggregated":
            parity.read_at_once(*ordinary)
        for seed in range(12):
            arrivals, seen = parity.workload(seed), list[list[dict]]()

            theirs = parity.drive(ordinary, arrivals, after=lambda cores, seen=seen: seen.append([*map(state, cores)]))
            ours = parity.drive(strided, arrivals, theirs, after=partial(same, iter(seen)))
            assert parity.difference(theirs, ours) is None
            assert all(core.reset() for core in (*ordinary, *strided))
        assert strided[-1].strided > 50


@pytest.mark.parametrize("mode", parity.MODES)
def test_asynchronous_scheduling_serves_every_request_to_its_last_token(mode, tmp_path):
    """Only simulated: vLLM turns it off on CPU."""
    outcomes = []
    for arrivals, rounds, whole in sim_only(mode, parity.SHAPES["tight"], tmp_path, range(20), asynchronous=True):
        assert list(parity.incomplete(arrivals, rounds)) == []
        assert all(whole)
        outcomes.append(parity.Outcome(mode, "tight", len(outcomes)))
        parity.count(outcomes[-1], arrivals, rounds)
        assert any(each.step and each.step.batch and not each.step.made for steps in rounds for each in steps)
    seen = parity.totals(outcomes)
    assert min(seen[f"with_{kind}"] for kind in ("chunked_prefills", "prefix_hits", "preemptions")) > 0
