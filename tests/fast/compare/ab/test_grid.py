"""A grid of rates goes on, in its own steps, on the side where a capacity lies beyond it."""

import pytest

from context_research.compare.ab.grid import MORE, extended
from context_research.records.summary import CapacityRecord
from context_research.settings.workload import Slo

GRID = (4.0, 5.0, 6.25)


def bounded(*bounds):
    return [
        CapacityRecord(load="", within="TTFT 2 s", slo=Slo(ttft=2), rate=4.0, bound=bound, points=())
        for bound in bounds
    ]


@pytest.mark.parametrize("bounds", [(), ("exact",), ("exact", "exact")])
def test_a_grid_that_holds_every_capacity_stays(bounds):
    assert extended(GRID, bounded(*bounds)) == GRID


def test_it_goes_up_where_the_highest_rate_was_not_enough():
    wider = extended(GRID, bounded("exact", "at least"))
    assert wider[:3] == GRID
    assert wider[3:] == (7.81, 9.77, 12.2, 15.3)
    assert len(wider) == 3 + MORE


def test_it_goes_down_where_the_lowest_rate_was_too_much():
    assert extended(GRID, bounded("at most", "exact")) == (1.64, 2.05, 2.56, 3.2, *GRID)


def test_it_goes_both_ways_where_arms_lie_apart():
    assert len(extended(GRID, bounded("at most", "at least"))) == 3 + 2 * MORE


def test_steps_that_are_tiny_grow():
    assert extended((4.0, 4.01), bounded("at least"))[2] == pytest.approx(4.01 * 1.1, rel=0.01)
