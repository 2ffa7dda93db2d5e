"""Capacity: attainment against the rate, and what latencies do as the rate rises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from context_research.compare.observations import Arm
from context_research.records.summary import CapacityRecord
from context_research.report.figures.arms import Sheet, arm_legend, colour, line, plural
from context_research.report.figures.style import grid, log_ticks


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    """A panel for each set of limits (and load) that every arm has a capacity of, or a bound."""
    names = [name for name in _named(arms[0]) if all(name in _named(arm) for arm in arms)]
    if not names:
        return []
    canvas, axes = grid(len(names), height=2.6)
    for axis, name in zip(axes, names, strict=True):
        for index, arm in enumerate(arms):
            _curve(axis, index, _named(arm)[name])
        own = _named(arms[0])[name][0]
        axis.axhline(own.slo.attainment, color="black", lw=0.8, ls=(0, (3, 2)))
        rates = [point.rate for arm in arms for each in _named(arm)[name] for point in each.points]
        log_ticks(axis.xaxis, min(rates) / 1.05, max(rates) * 1.05, most=8)
        axis.set_ylim(-0.03, 1.05)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_title(name)
        axis.set_xlabel("offered requests per second and device")
        axis.set_ylabel("requests within the limits")
    arm_legend(canvas, arms)
    units = "; ".join(plural(len(arm.units), "unit") for arm in arms)
    caption = (
        "The share of due requests that met every limit, by the rate at which they were offered: a thin line for each "
        "unit, a thick one for their mean. Crosses: overloaded, which counts as attaining nothing. Dashed: the target. "
        f"Dots on it: each unit's capacity, where an isotonic fit crosses the target ({units})."
    )
    return [Sheet("capacity", "Capacity: how many meet their limits as the rate rises", canvas, caption)]


def _named(arm: Arm) -> dict[str, list[CapacityRecord]]:
    """What a capacity is within -> each unit's."""
    found: dict[str, list[CapacityRecord]] = {}
    for unit in arm.capacities:
        for each in unit:
            found.setdefault(each.name, []).append(each)
    return found


def _curve(axis: Axes, index: int, units: Sequence[CapacityRecord]) -> None:
    shares: dict[float, list[float]] = {}
    for unit in units:
        points = [(point.rate, point.met / point.due, point.overloaded) for point in unit.points if point.due]
        rates, attained, over = (np.array(values) for values in zip(*points, strict=True))
        for rate, share in zip(rates, attained, strict=True):
            shares.setdefault(float(rate), []).append(float(share))
        if len(units) > 1:
            axis.plot(rates, attained, color=colour(index), lw=0.6, alpha=0.5)
        axis.plot(rates[over], attained[over], "x", color=colour(index), ms=5)
        if unit.bound == "exact":
            axis.plot([unit.rate], [unit.slo.attainment], "o", color=colour(index), mec="white", ms=5, zorder=3)
    every = sorted(shares)
    axis.plot(every, [float(np.mean(shares[rate])) for rate in every], color=colour(index), ls=line(index), lw=1.6)
