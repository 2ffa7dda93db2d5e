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
    below = _onwards(rates[1], rates[0]) if "at most" in bounds else []
    above = _onwards(rates[-2], rates[-1]) if "at least" in bounds else []
    return tuple(sorted({*below, *rates, *above}))


def _onwards(inner: float, end: float) -> list[float]:
    """The rates that follow on the grid's `end`, in the step that leads there from the one before, `inner`."""
    ratio = max(STEP, end / inner) if end > inner else 1 / max(STEP, inner / end)
    return [float(f"{end * ratio**step:.3g}") for step in range(1, MORE + 1)]
