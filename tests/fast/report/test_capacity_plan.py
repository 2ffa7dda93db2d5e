"""What a plan says: which topology carries most, how far to trust it, what would confirm it. SIMULATED everywhere."""

import pytest

from context_research.records.capacity_plan import CandidateRecord, CapacityPlanRecord, CarriedRecord
from context_research.records.run import ErrorRecord, ModelRecord
from context_research.report import capacity_plan as report
from context_research.settings.workload import Slo


def candidate(name, *rates, chunk=2048, problem="", bound="exact", well=True):
    carried = tuple(CarriedRecord(rate=rate, bound=bound) for rate in rates)
    return CandidateRecord(
        name=name,
        tensor_parallel=2 if "tp2" in name else 1,
        chunk=chunk,
        carried=carried,
        well=well,
        problem=problem,
    )


BALANCED = Slo(ttft=2, tpot=0.05)


def plan(*candidates, slos=(BALANCED,)):
    return CapacityPlanRecord(
        plan_id="p",
        created="2026-11-28T00:00:00+00:00",
        command=("context-research", "plan"),
        experiment="e1",
        model=ModelRecord(name="m", weights="hub", revision=None, hash=None, label="m hub"),
        settings={},
        device_profile="h200 81f085c4",
        calibrated=False,
        errors={"ttft": {"p50": ErrorRecord(median=0.07, worst=0.45, figures=48)}},
        devices=4,
        slos=slos,
        candidates=candidates,
        seconds=1.0,
    )


TWO = (candidate("4x", 2.0), candidate("4x", 2.2, chunk=8192), candidate("3p1d", 3.3), candidate("3p1d", 3.0, chunk=64))


def test_each_topology_stands_with_the_chunk_size_that_suits_it():
    assert [(each.name, each.chunk) for each in report.best(plan(*TWO), 0)] == [("3p1d", 2048), ("4x", 8192)]


def test_what_short_windows_flatter_comes_behind():
    told = plan(candidate("4x", 2.0), candidate("2p2d", 2.4, well=False), candidate("3p1d", 1.9))
    assert [each.name for each in report.best(told, 0)] == ["4x", "3p1d", "2p2d"]
    assert "| 3  | 2p2d       | 2048    | < 2.4     | 9.6      |" in report.render(told, [])


def test_the_answer_comes_first():
    text = report.render(plan(*TWO), ["context-research ab e1"])
    head, rest = text.split("## Within", 1)
    assert (
        "- Within TTFT 2 s, TPOT 50 ms at 90%: 3p1d with chunks of 2048 carries 3.3 requests/s per GPU, "
        "1.50 × as much as 4x with chunks of 8192 (2.2)." in head
    )
    assert "| 1  | 3p1d       | 2048    | 3.3       | 13.2     |" in rest
    assert "context-research ab e1" in rest


def test_what_is_closer_than_a_search_can_tell_is_not_ranked_in_words():
    [told] = report.answers(plan(candidate("4x", 2.0), candidate("2x-tp2", 1.85)))
    assert "too close to call beside 2x-tp2" in told


def test_limits_that_nothing_meets_are_told():
    [told] = report.answers(plan(candidate("4x", 0.01, bound="at most")))
    assert told == "Within TTFT 2 s, TPOT 50 ms at 90%: no topology meets it."


def test_limits_that_every_rate_meets_are_told():
    [told] = report.answers(plan(candidate("4x", 9.0, bound="at least")))
    assert told.endswith("met at every rate that was tried.")


def test_what_cannot_run_at_all_is_told():
    [told] = report.answers(plan(candidate("4x", problem="too small")))
    assert told.endswith("nothing of it can run.")


def test_each_set_of_limits_has_its_own_ranking():
    slos = (BALANCED, Slo(ttft=2, tpot=0.02))
    first, second = report.answers(plan(candidate("4x", 2.0, 1.0), candidate("3p1d", 1.5, 1.4), slos=slos))
    assert "4x with chunks of 2048 carries 2 " in first
    assert "3p1d with chunks of 2048 carries 1.4 " in second


@pytest.mark.parametrize("text", [report.render(plan(*TWO), []), report.terminal(plan(*TWO), [])])
def test_it_says_that_no_engine_ran_and_how_far_off_the_simulator_was(text):
    assert "SIMULATED: no engine ran" in text
    assert "ttft p50 median 7 %, at most 45 % (48 figures)" in text
    assert "Capacity itself was not held against real runs" in text
    assert "Tensor parallelism never was" not in text
    assert "Tensor parallelism never was" in report.trust(plan(candidate("2x-tp2", 1.0)))


def test_what_cannot_run_is_listed_with_its_reason():
    text = report.render(plan(*TWO, candidate("1x-tp2", problem="KV cache too small")), [])
    assert "## What can't run" in text
    assert "KV cache too small" in text
