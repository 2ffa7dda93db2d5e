"""Capacity: the highest rate per device at which enough requests meet their limits. DistServe's goodput.

A session measures attainment at a grid of rates. What counts is the rate that came in a window and not the one that
was asked for: of a few hundred random arrivals some percent more or fewer come. The fit is isotonic: attainment can
only fall as the rate rises, and nothing else is known of its shape (a logistic curve would let points far from the
target move the crossing). Between the two rates around the crossing the fit is a line over the rate's logarithm.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import optimize

from context_research.records.case import CaseRecord
from context_research.records.summary import Bound, CapacityRecord, PointRecord
from context_research.settings.schema import Settings
from context_research.settings.workload import Slo

_Case = TypeVar("_Case")
RATE, TIME_SCALE = "rate", "time_scale"
"""The axes that are the rate: of an open load, and of a replayed one, whose rate is the one that was seen."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where attainment falls below the target, in requests per second and device; `bound` where the grid ends first."""

    rate: float
    bound: Bound


def crossing(points: Sequence[PointRecord], target: float) -> Crossing | None:
    """Of points in ascending order of their rates; None without any.

    An overloaded point attains nothing: what was met there was met before the backlog had grown.
    """
    counted = [point for point in points if point.due]
    if not counted:
        return None
    over = without_steady_state([point.overloaded for point in counted])
    attained = [0.0 if beyond else point.met / point.due for point, beyond in zip(counted, over, strict=True)]
    return crossed([point.rate for point in counted], attained, [point.due for point in counted], target)


def without_steady_state(overloaded: Sequence[bool]) -> list[bool]:
    """Which of a grid's rates, in ascending order, are over what can be carried at all.

    Overload, too, can only set in as the rate rises. The test for it errs near capacity, both ways: alone among rates
    that were carried, an alarm is taken for a false one.
    """
    fit = optimize.isotonic_regression([float(each) for each in overloaded], increasing=True).x
    return [bool(share > 0.5) for share in fit]


def crossed(rates: Sequence[float], attained: Sequence[float], due: Sequence[int], target: float) -> Crossing:
    """The same of plain numbers: at each rate the share of requests that met the limits, and how many were due."""
    fit = optimize.isotonic_regression(attained, weights=due, increasing=False).x
    if fit[0] < target:
        return Crossing(rates[0], "at most")
    below = int(np.argmax(fit < target))
    if fit[below] >= target:
        return Crossing(rates[-1], "at least")
    share = (fit[below - 1] - target) / (fit[below - 1] - fit[below])
    before, after = math.log(rates[below - 1]), math.log(rates[below])
    return Crossing(math.exp(before + share * (after - before)), "exact")


def of_cases(cases: Iterable[CaseRecord], settings: Settings, devices: int) -> tuple[CapacityRecord, ...]:
    """The capacity within each of the settings' SLOs, of each load that was measured at two rates or more.

    A load is all that its cases' axes say besides the rate. `devices` served.
    """
    loads = by_load((case, case.axes) for case in cases if case.arrivals is not None)
    found = []
    for load, own in loads.items():
        for number, slo in enumerate(settings.slos):
            points = sorted((_point(case, number, devices) for case in own), key=lambda point: point.rate)
            if len(points) > 1 and (found_at := crossing(points, slo.attainment)):
                found.append(
                    CapacityRecord(
                        load=load if len(loads) > 1 else "",
                        within=described(slo),
                        slo=slo,
                        rate=found_at.rate,
                        bound=found_at.bound,
                        points=tuple(points),
                    )
                )
    return tuple(found)


def by_load(cases: Iterable[tuple[_Case, Mapping[str, object]]]) -> dict[str, list[_Case]]:
    """Each load's cases, of cases and their axes; those without a rate are left out."""
    loads: dict[str, list[_Case]] = defaultdict(list)
    for case, axes in cases:
        if (load := load_of(axes)) is not None:
            loads[load].append(case)
    return loads


def load_of(axes: Mapping[str, object]) -> str | None:
    """What a case's axes say besides the rate; None where the rate is none of them."""
    if RATE not in axes and TIME_SCALE not in axes:
        return None
    return "-".join(f"{axis}_{value}" for axis, value in axes.items() if axis not in (RATE, TIME_SCALE))


def _point(case: CaseRecord, number: int, devices: int) -> PointRecord:
    assert case.arrivals is not None
    met, due = case.attained[number] if number < len(case.attained) else (0, 0)
    rate = case.arrivals.rate / devices
    return PointRecord(case=case.name, rate=rate, due=due, met=met, overloaded=case.overloaded)


def described(slo: Slo) -> str:
    """What a capacity is within: ``TTFT 2 s, TPOT 50 ms at 90%``"""
    limits = [f"{name if name == 'stall' else name.upper()} {_seconds(limit)}" for name, limit in slo.limits.items()]
    return f"{', '.join(limits) or 'the limits of each class'} at {slo.attainment:.0%}"


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"
