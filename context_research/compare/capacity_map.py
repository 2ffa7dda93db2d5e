"""Which arm carries more traffic within a pair of limits, over a grid of limits: capacity without choosing an SLO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from context_research.compare.goodput_map import CELLS, Floats, Map, latencies, limits_of, slo_of, within
from context_research.compare.observations import Arm
from context_research.measure.capacity import by_load, crossed, without_steady_state
from context_research.measure.metrics import Repeat

Rated = Sequence[tuple[float, Sequence[Repeat], bool]]
"""One unit's repeats at each rate (requests per second and device), in ascending order, and whether it overloaded."""


def maps(baseline: Arm, candidate: Arm) -> list[Map]:
    """A map for every load that units of both arms measured at two rates or more.

    Its values are capacities, in requests per second and device. Where the grid of rates ends before, they are its
    ends: 0 below the lowest rate, the highest one above it.
    """
    both = set(candidate.cases)
    loads = by_load((case, baseline.axes.get(case, {})) for case in baseline.cases if case in both)
    found = (_map(load or "all rates", cases, baseline, candidate) for load, cases in loads.items() if len(cases) > 1)
    return [each for each in found if each is not None]


def _map(load: str, cases: Sequence[str], baseline: Arm, candidate: Arm) -> Map | None:
    pairs = [
        (_rated(baseline, number, cases), _rated(candidate, number, cases))
        for number in range(min(len(baseline.units), len(candidate.units)))
    ]
    pairs = [pair for pair in pairs if all(len(side) > 1 for side in pair)]
    if not pairs:
        return None
    measured = [[latencies(repeats) for pair in pairs for _, repeats, _ in pair[side]] for side in (0, 1)]
    # Where there is no steady state, latencies only say how long the run was.
    steady = [latencies(repeats) for pair in pairs for side in pair for _, repeats, over in side if not over]
    seen = np.concatenate(steady or [np.empty((0, 2))])
    if not len(seen):
        return None
    slo = slo_of(pairs[0][0][0][1][0])
    ttft, tpot = limits_of(seen[:, 0], slo.ttft), limits_of(seen[:, 1], slo.tpot)
    sides = [np.stack([_capacities(pair[side], ttft, tpot, slo.attainment) for pair in pairs]) for side in (0, 1)]
    requests = tuple(sum(map(len, side)) for side in measured)
    return Map(load, ttft, tpot, sides[0], sides[1], (requests[0], requests[1]), slo)


def _rated(arm: Arm, number: int, cases: Sequence[str]) -> Rated:
    found = []
    for case in cases:
        repeats = arm.units[number].get(case, ())
        if repeats and (due := _due(repeats)):
            rate = due / sum(repeat.seconds for repeat in repeats)
            found.append((rate / repeats[0].devices, repeats, case in arm.overloaded))
    return sorted(found, key=lambda each: each[0])


def _capacities(rated: Rated, ttft: Floats, tpot: Floats, target: float) -> Floats:
    """[TPOT limit, TTFT limit]"""
    rates = [rate for rate, _, _ in rated]
    due = [_due(repeats) for _, repeats, _ in rated]
    beyond = without_steady_state([over for _, _, over in rated])
    met = np.stack(
        [
            within(latencies(repeats), ttft, tpot) * (not over)
            for (_, repeats, _), over in zip(rated, beyond, strict=True)
        ]
    )
    shares = met / np.array(due)[:, None, None]
    values = np.zeros((CELLS, CELLS))
    for row, column in np.ndindex(CELLS, CELLS):
        found = crossed(rates, shares[:, row, column], due, target)
        values[row, column] = 0.0 if found.bound == "at most" else found.rate
    return values


def _due(repeats: Sequence[Repeat]) -> int:
    return sum(repeat.requests for repeat in repeats)
