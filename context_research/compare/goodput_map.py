"""Which arm serves more requests within a pair of limits, over a grid of limits: goodput without choosing an SLO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from context_research.compare.observations import Arm
from context_research.compare.statistics import ALPHA, MIN_PAIRS, sign_flip
from context_research.measure import metrics
from context_research.measure.metrics import Repeat
from context_research.settings.workload import Slo

CELLS = 32
"""Limits on either axis."""
_BELOW = 1.1
"""Limits begin below the 1st percentile of the values seen by this factor."""
_BEYOND = 1.25
"""They end at the next round number beyond the largest value by this factor: both arms serve all of it there."""
_RESAMPLES = 2**10
"""Sign flips of a cell: up to 10 pairs every one is tried, and p is exact."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Map:
    """One case: requests per second (`Repeat.steady_seconds`) and device that met both limits (seconds).

    `baseline` and `candidate` are [pair, TPOT limit, TTFT limit], `requests` each arm's measured ones. `slo` is what
    was asked of these requests.
    """

    case: str
    ttft: Floats
    tpot: Floats
    baseline: Floats
    candidate: Floats
    requests: tuple[int, int]
    slo: Slo

    @property
    def gain(self) -> Floats:
        """Candidate − baseline, the mean over the pairs, as a share of the most that either serves at any limits."""
        means = self.baseline.mean(axis=0), self.candidate.mean(axis=0)
        most = max(float(each.max()) for each in means)
        return np.asarray((means[1] - means[0]) / most if most else np.zeros_like(means[0]))

    @property
    def pairs(self) -> int:
        return len(self.baseline)

    @property
    def served(self) -> NDArray[np.bool_]:
        """Cells in which either arm serves any request."""
        return np.asarray((self.baseline + self.candidate).any(axis=0))

    @staticmethod
    def edges(limits: Floats) -> Floats:
        """Of the cells: each ends at its own limit."""
        return np.concatenate([[limits[0] ** 2 / limits[1]], limits])


def maps(baseline: Arm, candidate: Arm) -> list[Map]:
    """A map for every case that units of both arms have in common."""
    return [found for case in baseline.cases if (found := _map(case, baseline, candidate))]


def decide(found: Sequence[Map]) -> list[NDArray[np.int8]]:
    """Cell by cell: 1 where the candidate serves more, −1 where the baseline does, 0 where that is undecided.

    A sign-flip test of the pairs' differences, Benjamini-Hochberg over the cells of all maps. Cells in which too few
    pairs differ to reach ALPHA, whatever the signs, are no tests (Tarone 1990) and don't count among them.
    """
    differences = [each.candidate - each.baseline for each in found]
    testable = [np.count_nonzero(each, axis=0) >= MIN_PAIRS for each in differences]
    p = [_p_values(each[:, cells]) for each, cells in zip(differences, testable, strict=True) if cells.any()]
    adjusted = stats.false_discovery_control(np.concatenate(p)) if p else np.empty(0)
    ends = np.cumsum([np.count_nonzero(cells) for cells in testable], dtype=int)
    outcomes = []
    # `split` adds what is behind the last end: nothing.
    for each, cells, own in zip(differences, testable, np.split(adjusted, ends), strict=False):
        outcome = np.zeros(cells.shape, dtype=np.int8)
        outcome[cells] = np.sign(each[:, cells].mean(axis=0)) * (own <= ALPHA)
        outcomes.append(outcome)
    return outcomes


def _map(case: str, baseline: Arm, candidate: Arm) -> Map | None:
    units = [
        (b[case], c[case])
        for b, c in zip(baseline.units, candidate.units, strict=False)
        if _device_seconds(b.get(case, ())) > 0 and _device_seconds(c.get(case, ())) > 0
    ]
    pairs = [(latencies(b), latencies(c), _device_seconds(b), _device_seconds(c)) for b, c in units]
    if not pairs or not any(len(b) or len(c) for b, c, *_ in pairs):
        return None
    slo = slo_of(units[0][0][0])
    seen = np.concatenate([values for b, c, *_ in pairs for values in (b, c)])
    ttft, tpot = limits_of(seen[:, 0], slo.ttft), limits_of(seen[:, 1], slo.tpot)
    return Map(
        case,
        ttft,
        tpot,
        np.stack([within(b, ttft, tpot) / seconds for b, _, seconds, _ in pairs]),
        np.stack([within(c, ttft, tpot) / seconds for _, c, _, seconds in pairs]),
        (sum(len(b) for b, *_ in pairs), sum(len(c) for _, c, *_ in pairs)),
        slo,
    )


def _device_seconds(repeats: Sequence[Repeat]) -> float:
    return sum(repeat.steady_seconds * repeat.devices for repeat in repeats)


def slo_of(repeat: Repeat) -> Slo:
    """Of one class's requests their own, where that has one."""
    [*others, name] = repeat.classes or [""]
    return repeat.slo if others else repeat.class_slos.get(name, repeat.slo)


def latencies(repeats: Sequence[Repeat]) -> Floats:
    """TTFT and TPOT of the measured requests; a single token's TPOT is 0, as it meets any limit."""
    values = [(metrics.ttft(t), metrics.tpot(t) or 0.0) for repeat in repeats for t in repeat.timelines]
    return np.array(values, dtype=float).reshape(-1, 2)


def limits_of(values: Floats, asked: float | None) -> Floats:
    """From below what was seen, and `asked`, to a round number beyond."""
    positive = values[values > 0]
    if not positive.size:  # one token each: whatever the limit is, all meet it
        positive = np.array([1e-3])
    ends = [float(np.percentile(positive, 1)), float(positive.max()), *([asked] if asked else [])]
    return np.geomspace(min(ends) / _BELOW, _round_up(max(ends) * _BEYOND), CELLS)


def _round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(next(step * decade for step in (1, 2, 5, 10) if step * decade >= value * (1 - 1e-9)))


def within(values: Floats, ttft: Floats, tpot: Floats) -> NDArray[np.int64]:
    """How many requests meet both limits, [TPOT limit, TTFT limit]."""
    counts = np.zeros((CELLS + 1, CELLS + 1), dtype=np.int64)  # the last ones exceed every limit
    np.add.at(counts, (np.searchsorted(tpot, values[:, 1]), np.searchsorted(ttft, values[:, 0])), 1)
    return counts.cumsum(axis=0).cumsum(axis=1)[:CELLS, :CELLS]


def _p_values(differences: Floats) -> Floats:
    """Of each column's mean, by sign flips. Neighbouring cells often hold the same requests: each column once."""
    columns, inverse = np.unique(differences, axis=1, return_inverse=True)
    return sign_flip(columns, _RESAMPLES)[inverse.ravel()]
