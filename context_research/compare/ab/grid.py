"""An A/B's grid of rates, extended by rule: where the first pair's capacities lie outside it, it goes on that way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from context_research.measure.knee import STEP
from context_research.records.summary import CapacityRecord
from context_research.settings.schema import Settings

MORE = 4
"""Rates that are added on a side."""
MOST = 3
"""Times that a grid is extended: with steps of 10 % to a third of its lowest rate, and to three times its highest."""


def of_settings(settings: Settings) -> tuple[float, ...]:
    """The rates that a session measures, ascending; none where the rate is no axis."""
    return tuple(sorted(float(value) for value in settings.axes.get("workload.rate", ())))


def extended(rates: Sequence[float], capacities: Iterable[CapacityRecord]) -> tuple[float, ...]:
    """`rates` with those added that capacities ask for: above for an `at least`, below for an `at most`.

    They go on in the grid's own steps, of 10 % at least.
    """
    bounds = {each.bound for each in capacities}
    below, above = (
        [float(f"{end * max(STEP, ratio) ** (sign * step):.3g}") for step in range(1, MORE + 1)] if wanted else []
        for end, ratio, sign, wanted in (
            (rates[0], rates[1] / rates[0], -1, "at most" in bounds),
            (rates[-1], rates[-1] / rates[-2], 1, "at least" in bounds),
        )
    )
    return tuple(sorted({*below, *rates, *above}))
