"""Lengths as they are drawn: constant, uniform, lognormal, spread about what they are."""

import numpy as np
import pytest
from scipy import stats

from context_research.settings.workload import Lognormal, Uniform
from context_research.workload import lengths

COUNT = 100_000


def drawn(length, seed=0):
    return lengths.draw(length, COUNT, np.random.default_rng(seed))


def test_a_number_is_always_that():
    assert set(drawn(77).tolist()) == {77}


def test_uniform_has_both_ends_and_everything_between_alike():
    some = drawn(Uniform(low=10, high=19))
    values, counts = np.unique(some, return_counts=True)
    assert values.tolist() == list(range(10, 20))
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(("p50", "p90"), [(500, 2000), (100, 120), (6909, 27367)])
def test_lognormal_has_the_percentiles_asked_for(p50, p90):
    some = drawn(Lognormal(p50=p50, p90=p90, max=100_000_000))
    assert np.percentile(some, [50, 90]) == pytest.approx([p50, p90], rel=0.02)
    logs = (np.log(some) - np.log(p50)) / (np.log(p90 / p50) / stats.norm.ppf(0.9))
    assert stats.kstest(logs, "norm").statistic < 0.02  # whole tokens are no continuous distribution


@pytest.mark.parametrize(
    ("p50", "p90", "most"), [(500, 2000, 4000), (500, 2000, 2700), (200, 400, 600), (100, 300, 10**8)]
)
def test_what_is_left_below_the_maximum_has_the_median_and_the_ninth_decile(p50, p90, most):
    some = drawn(Lognormal(p50=p50, p90=p90, max=most))
    assert 1 <= some.min() <= some.max() <= most
    assert np.percentile(some, [50, 90]) == pytest.approx([p50, p90], rel=0.02)
    assert (some == most).mean() < 0.005, "left out, and not cut"


def test_no_length_is_under_a_token():
    assert drawn(Lognormal(p50=1, p90=100, max=1000)).min() == 1
    assert lengths.spread(np.ones(COUNT, dtype=np.int64), 0.99, np.random.default_rng(0)).min() == 1


def test_spread_is_even_about_what_a_length_is():
    some = lengths.spread(np.full(COUNT, 1000), 0.2, np.random.default_rng(0))
    assert (some.min(), some.max()) == (800, 1200)
    assert some.mean() == pytest.approx(1000, abs=1)
    assert stats.kstest(some, stats.uniform(800, 400).cdf).statistic < 0.01


@pytest.mark.parametrize("length", [7, Uniform(low=3, high=9), Lognormal(p50=20, p90=30, max=50)])
def test_the_longest_is_known_beforehand(length):
    assert drawn(length).max() == lengths.longest(length)
