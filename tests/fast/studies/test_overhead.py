"""benchmarks/studies/overhead without an engine: which pairs count, and what their ratios prove."""

import time

import pytest

from tests.support.studies import study

QUIET, BUSY = (100.0, 10.0, 10.0), (100.0, 90.0, 10.0)
"""What a pair took: CPU seconds of the machine in all, busy, and ours."""


@pytest.fixture
def pairs(monkeypatch):
    """`run(loads, …)`: each side's calls in pairs that took these, and the results."""
    quiet = study("overhead", "quiet")

    def run(loads, **values):
        taken, calls = iter(loads), []
        moments = iter([moment for load in taken for moment in ((0.0, 0.0, 0.0), load)])
        monkeypatch.setattr(quiet, "_cpu_seconds", lambda: next(moments))
        sides = (lambda pair: calls.append(("ours", pair)) or pair, lambda pair: calls.append(("other", pair)) or -pair)
        results = quiet.Pairing(**{"pairs": 4, "max_others": 0.1} | values).run("made", *sides)
        return calls, results

    run.too_busy = quiet.TooBusy
    return run


def test_sides_take_turns_in_going_first(pairs):
    calls, results = pairs([QUIET] * 4)
    assert [side for side, _ in calls] == ["ours", "other", "other", "ours", "ours", "other", "other", "ours"]
    assert results == [(0, 0), (1, -1), (2, -2), (3, -3)]


def test_a_disturbed_pair_is_run_again(pairs):
    calls, results = pairs([QUIET, BUSY, QUIET, QUIET, QUIET])
    assert [pair for side, pair in calls if side == "ours"] == [0, 1, 1, 2, 3]
    assert [a for a, _ in results] == [0, 1, 2, 3]


def test_a_machine_that_stays_busy_gives_no_result(pairs):
    with pytest.raises(pairs.too_busy, match="only 0 of 4 pairs had the machine to themselves in 16 attempts"):
        pairs([BUSY] * 16)


def test_after_the_deadline_the_fewest_pairs_are_enough(pairs):
    _, results = pairs([QUIET] * 9, pairs=9, deadline=time.monotonic() - 1)
    assert len(results) == 5


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.990, 0.995, 1.0, 1.0, 1.0, 1.0], "holds"),
        ([1.05, 1.06, 1.07, 1.05, 1.06, 1.07], "MISSED"),
        ([0.95, 0.96, 1.0, 1.01, 1.06, 1.07], "undecided"),
    ],
)
def test_a_bar_holds_where_the_whole_interval_is_within_it(ratios, verdict):
    made = study("overhead", "ratios")
    comparison = made.Comparison("e2e", "made", "s", ratios, [1.0] * 6, made.Bar(high=1.02))
    assert comparison.verdict == verdict
    assert comparison.as_json()["interval_95"] == comparison.interval
    assert min(ratios) <= comparison.interval[0] <= comparison.median <= comparison.interval[1] <= max(ratios)
