"""Who has to be known better: the best of each topology, of those that carry most."""

from dataclasses import replace

from context_research.measure.capacity import Crossing
from context_research.planning.candidates import series
from context_research.planning.search import Found, leaders

WAYS = {each.name: each for [each] in series(4, [2048], 32)}


def rough(name, *rates, bound="exact"):
    return Found(WAYS[name], tuple(Crossing(rate, bound) for rate in rates))


def names(*found):
    return [each.candidate.name for each in leaders(found)]


def test_the_two_best_topologies_lead():
    assert names(rough("4x", 3.0), rough("3p1d", 4.0), rough("2p2d", 2.0), rough("1p3d", 1.0)) == ["3p1d", "4x"]


def test_each_set_of_limits_has_leaders_of_its_own():
    found = rough("4x", 3.0, 1.0), rough("3p1d", 2.0, 1.5), rough("2p2d", 1.0, 2.0)
    assert set(names(*found)) == {"4x", "3p1d", "2p2d"}


def test_of_a_topology_the_chunk_size_leads_that_is_best_so_far():
    other = replace(rough("4x", 3.5), candidate=replace(WAYS["4x"], chunk=8192))
    assert [each.candidate.chunk for each in leaders([rough("4x", 3.0), other])] == [8192]


def test_a_topology_of_which_one_is_known_well_is_known():
    well = replace(rough("4x", 2.0), well=True)
    other = replace(rough("4x", 3.5), candidate=replace(WAYS["4x"], chunk=8192))
    assert leaders([well, other]) == [well]
    assert names(well, other, rough("2p2d", 2.5), rough("3p1d", 2.2)) == ["2p2d", "3p1d"]


def test_what_has_no_figure_does_not_lead():
    assert names(rough("4x", 9.0, bound="at most"), Found(WAYS["2p2d"], problem="too small"), rough("3p1d", 1.0)) == [
        "3p1d"
    ]
