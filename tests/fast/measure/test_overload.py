"""Loads of which it is known whether they are too much."""

import numpy as np
import pytest

from context_research.measure import overload
from context_research.measure.repeat import Repeat
from tests.support.timelines import timeline


def queue(load, count=400, seed=0, still_waiting=()):
    """A window over requests that one server serves for a second each, at Poisson arrivals of rate `load`."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / load, size=2 * count))
    ended, free = [], 0.0
    for at in due:
        free = max(free, at) + 1.0
        ended.append(free)
    served = [
        timeline([end], scheduled=at) if index not in still_waiting else timeline([], scheduled=at, asked=1, error="no")
        for index, (at, end) in enumerate(zip(due, ended, strict=True))
    ]
    window = (due[count // 4], due[count // 4 + count])
    return Repeat.of([each for each in served if window[0] <= each.scheduled <= window[1]], served, window=window)


def test_what_is_carried_is_not_overloaded():
    grown = [overload.backlog(queue(0.7, seed=seed)) for seed in range(20)]
    assert sum(each.grew for each in grown) <= 1
    assert not overload.overloaded(grown)


def test_twice_what_is_carried_is_overloaded():
    found = overload.backlog(queue(2.0))
    assert found.grew
    assert found.in_flight.slope == pytest.approx(1.0, rel=0.2)
    assert found.due_per_s == pytest.approx(2.0, rel=0.15)


def test_requests_that_never_ended_are_in_the_backlog():
    calm = queue(0.2)
    assert not overload.backlog(calm).grew
    assert overload.backlog(queue(0.2, still_waiting=range(100, 800))).grew


def test_a_handful_of_requests_is_no_backlog():
    """At the end of a window of a quiet load three requests wait."""
    served = [timeline([at + 0.1], scheduled=at) for at in range(20)]
    served += [timeline([30.0 + n], scheduled=16 + n) for n in range(3)]
    found = overload.backlog(Repeat.of(served, served, window=(0, 20)))
    assert found.in_flight.slope > 0.04 * found.due_per_s
    assert not found.grew


def test_an_empty_system_does_not_grow():
    served = [timeline([at], scheduled=at) for at in range(20)]
    assert overload.backlog(Repeat.of(served, served, window=(0, 20))).in_flight.p == 1


def test_most_repeats_decide():
    much, little = overload.backlog(queue(2.0)), overload.backlog(queue(0.2))
    assert overload.overloaded([much, much, little])
    assert not overload.overloaded([much, little, little])
    assert not overload.overloaded([much, little])


def slow(warmup, seconds=60.0, rate=4.0, takes=30.0, seed=0):
    """Engines that keep up with requests that take long: nothing waits."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, size=int(rate * (warmup + 2 * seconds))))
    served = [timeline([at + 0.1, at + takes], scheduled=at) for at in due]
    window = (warmup, warmup + seconds)
    return Repeat.of([each for each in served if window[0] <= each.scheduled <= window[1]], served, window=window)


@pytest.mark.parametrize("warmup", [0.0, 2.0, 10.0, 40.0])
def test_long_requests_that_accumulate_are_no_overload(warmup):
    found = overload.backlog(slow(warmup))
    assert found.built_up == (warmup > 30)
    assert not found.grew


def test_long_requests_weigh_more_in_what_requests_take():
    some = [timeline([1, 2], scheduled=0)] * 90 + [timeline([1, 100], scheduled=0)] * 10
    assert overload.takes(some) == 100
    assert overload.takes([]) == float("inf")
