import math
from itertools import pairwise

import pytest

from context_research.errors import UsageProblem
from context_research.measure.knee import NEAR, Knee, grid, search


class Engines:
    """They carry `capacities`, one for each SLO: above it requests miss, more of them the higher the rate."""

    def __init__(self, *capacities):
        self.capacities, self.tried = capacities, []

    def __call__(self, rate):
        self.tried.append(rate)
        return [min(1.0, 0.9 * capacity / rate) for capacity in self.capacities]


@pytest.mark.parametrize(("capacity", "start"), [(0.1, 0.5), (0.7, 0.1), (3.0, 4.0), (100.0, 4.0)])
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


@pytest.mark.parametrize(
    ("share", "told"), [(0.0, "missed at 0.0156 requests/s too"), (1.0, "met at 64 requests/s too")]
)
def test_limits_without_a_knee_end_the_search(share, told):
    with pytest.raises(UsageProblem, match=told):
        search(lambda _: [share], [0.9], 1.0)


def test_chance_at_a_low_rate_does_not_turn_the_search_round():
    """So few requests may miss where a higher rate met."""
    [knee] = search(lambda rate: [0.0 if rate in (0.5, 4.0, 2.8284271247461903) else 1.0], [0.9], 1.0)
    assert 2.0 <= knee.low < knee.high <= 4.0


def test_rates_reach_beyond_the_knees_and_are_ten_percent_apart():
    rates = grid([Knee(3.9, 4.1)])
    assert rates[0] == pytest.approx(4.0 / 1.4, rel=0.01)
    assert rates[-1] == pytest.approx(4.0 * 1.4, rel=0.01)
    steps = [after / before for before, after in pairwise(rates)]
    assert max(steps) <= 1.11
    assert len(rates) == 9


def test_knees_far_apart_get_more_rates_up_to_thirteen():
    rates = grid([Knee(1.0, 1.0), Knee(8.0, 8.0)])
    assert len(rates) == 13
    assert (rates[0], rates[-1]) == (0.714, 11.2)
    assert math.isclose(rates[1] / rates[0], (8 * 1.96) ** (1 / 12), rel_tol=0.01)
