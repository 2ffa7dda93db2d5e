"""Who has to be known better: the leaders, by all that is known; a rough figure is flattered as others were."""

from dataclasses import replace

from context_research.measure.capacity import Crossing
from context_research.planning.candidates import series
from context_research.planning.search import Found, leaders

WAYS = {each.name: each for [each] in series(4, [2048], 32)}


def rough(name, *rates, bound="exact"):
    return Found(WAYS[name], tuple(Crossing(rate, bound) for rate in rates))


def well(name, rate, was):
    return replace(rough(name, rate), rough=(Crossing(was, "exact"),))


def names(*found):
    return [each.candidate.name for each in leaders(found)]


def test_the_two_best_topologies_lead():
    assert names(rough("4x", 3.0), rough("3p1d", 4.0), rough("2p2d", 2.0), rough("1p3d", 1.0)) == ["3p1d", "4x"]


def test_each_set_of_limits_has_leaders_of_its_own():
    found = rough("4x", 3.0, 1.0), rough("3p1d", 2.0, 1.5), rough("2p2d", 1.0, 2.0)
    assert set(names(*found)) == {"4x", "3p1d", "2p2d"}


def test_a_rough_figure_does_not_lead_that_is_flattered_as_the_others_were():
    """2.8 by a short window is 2.52 where the least flattered lost a tenth."""
    known = well("4x", 2.7, was=3.0), well("3p1d", 2.6, was=3.2)
    assert names(*known, rough("2p2d", 2.8)) == ["4x", "3p1d"]
    assert names(*known, rough("2p2d", 2.95)) == ["4x", "2p2d"]


def test_what_has_no_figure_does_not_lead():
    assert names(rough("4x", 9.0, bound="at most"), Found(WAYS["2p2d"], problem="too small"), rough("3p1d", 1.0)) == [
        "3p1d"
    ]
