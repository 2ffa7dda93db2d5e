import math
from itertools import pairwise

import pytest

from context_research.measure.knee import NEAR, Knee, grid, search


class Engines:
    """They carry `capacities`, one for each SLO: above it requests miss, more of them the higher the rate."""

    def __init__(self, *capacities):
        self.capacities, self.tried = capacities, []

    def __call__(self, rate):
        self.tried.append(rate)
        return [min(1.0, 0.9 * capacity / rate) for capacity in self.capacities]


@pytest.mark.parametrize("capacity", [0.01, 0.7, 3.0, 1000.0])
@pytest.mark.parametrize("start", [0.1, 4.0])
def test_the_knee_lies_between_rates_that_are_near(capacity, start):
    [knee] = search(Engines(capacity), [0.9], start)
    assert knee.low <= capacity <= knee.high
    assert knee.high / knee.low <= NEAR
    assert knee.low <= knee.rate <= knee.high


def test_every_slo_has_its_own_and_tries_are_shared():
    engines = Engines(1.0, 8.0)
    low, high = search(engines, [0.9, 0.9], 2.0)
    assert low.rate == pytest.approx(1.0, rel=NEAR - 1)
    assert high.rate == pytest.approx(8.0, rel=NEAR - 1)
    assert len(engines.tried) == len(set(engines.tried)) <= 16


def test_limits_that_no_rate_meets_end_the_search():
    [knee] = search(lambda _: [0.0], [0.9], 1.0)
    assert knee.low is None
    assert knee.high < 1e-6


def test_limits_that_every_rate_meets_end_the_search():
    [knee] = search(lambda _: [1.0], [0.9], 1.0)
    assert knee.high is None
    assert knee.low > 1e6


def test_rates_reach_beyond_the_knees_and_are_ten_percent_apart():
    rates = grid([Knee(3.9, 4.1)])
    assert rates[0] == pytest.approx(4.0 / 1.25, rel=0.01)
    assert rates[-1] == pytest.approx(4.0 * 1.25, rel=0.01)
    steps = [after / before for before, after in pairwise(rates)]
    assert max(steps) <= 1.11
    assert len(rates) == 6


def test_knees_far_apart_get_more_rates_up_to_thirteen():
    rates = grid([Knee(1.0, 1.0), Knee(8.0, 8.0)])
    assert len(rates) == 13
    assert (rates[0], rates[-1]) == (0.8, 10.0)
    assert math.isclose(rates[1] / rates[0], 12.5 ** (1 / 12), rel_tol=0.01)
