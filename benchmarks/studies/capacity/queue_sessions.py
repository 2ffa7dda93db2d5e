"""Sessions of a queue whose capacity is known: requests wait for one server, and must get their answer in time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from context_research.measure.capacity import crossing
from context_research.records.summary import PointRecord

TARGET = 0.9
LIMIT = 5.0
"""The limit of a request's answer, in times of service."""
STEP = 1.1
_WARMUP = 200
"""Requests before the window: the queue begins empty."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """A session's grid: `rates` of them, STEP apart, around the knee that a pilot found with an error of `pilot` (sd of
    its logarithm). `requests` are due in a window on average; sessions' service times scatter by `noise`."""

    requests: int
    noise: float = 0.0
    rates: int = 9
    pilot: float = 0.05


@cache
def truth() -> float:
    """The rate at which TARGET of all requests are answered within LIMIT: by a million requests at each of 24 rates."""
    rates = np.geomspace(0.6, 0.95, 24)
    waits, _ = _waits(np.tile(rates, (64, 1)), 20_000, np.ones((64, 1)), np.random.default_rng(0))
    attained = [float((waits[:, :, index] + 1 <= LIMIT).mean()) for index in range(len(rates))]
    points = [_point(rate, share, 10**6) for rate, share in zip(rates, attained, strict=True)]
    found = crossing(points, TARGET)
    assert found is not None
    assert found.bound == "exact"
    return found.rate


def knees(plan: Plan, count: int, seed: int) -> Floats:
    """Where the pilots of so many A/Bs found the knee."""
    return truth() * np.exp(plan.pilot * np.random.default_rng([seed, 1]).standard_normal(count))


def capacities(plan: Plan, around: Floats, speed: float, arrivals: int, noise: int) -> Floats:
    """One session for each of the grids `around` a knee, on a server of this speed; NaN where it is not bracketed.

    `arrivals` and `noise` are seeds: arms of a pair share the first, and have the second for themselves.
    """
    rates = around[:, None] * STEP ** (np.arange(plan.rates) - (plan.rates - 1) / 2)
    scatter = np.random.default_rng([noise, 2]).standard_normal((len(around), 1))
    service = np.exp(plan.noise * scatter) / speed
    waits, seen = _waits(rates, plan.requests, service, np.random.default_rng([arrivals, 3]))
    shares = (waits + service[:, None, :] <= LIMIT).mean(axis=1)
    return np.array([_capacity(*session, plan.requests) for session in zip(seen, shares, strict=True)])


def _capacity(rates: Floats, shares: Floats, due: int) -> float:
    points = [_point(rate, share, due) for rate, share in sorted(zip(rates, shares, strict=True))]
    found = crossing(points, TARGET)
    return found.rate if found is not None and found.bound == "exact" else np.nan


def _waits(rates: Floats, requests: int, service: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """[session, request, rate]: how long each request of a window waits (Lindley's recursion). Poisson arrivals.

    And [session, rate]: the rate at which they came.
    """
    wait, span = np.zeros(rates.shape), np.zeros(rates.shape)
    kept = np.empty((rates.shape[0], requests, rates.shape[1]))
    for number in range(_WARMUP + requests):
        if number >= _WARMUP:
            kept[:, number - _WARMUP] = wait
        gaps = generator.exponential(size=rates.shape) / rates
        span += gaps * (number >= _WARMUP)
        wait = np.maximum(0.0, wait + service - gaps)
    return kept, requests / span


def _point(rate: float, share: float, due: int) -> PointRecord:
    return PointRecord(case="", rate=float(rate), due=due, met=round(share * due), overloaded=False)
