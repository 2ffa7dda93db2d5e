"""How many tokens prompts and outputs have: drawn from a distribution."""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import optimize, stats

from context_research.settings.workload import Length, Lognormal, Uniform

_ALL = 1 - 1e-12
Tokens = NDArray[np.int64]


def draw(length: Length, count: int, rng: Generator) -> Tokens:
    """`count` lengths in tokens."""
    if isinstance(length, Uniform):
        return rng.integers(length.low, length.high, size=count, endpoint=True)
    if isinstance(length, Lognormal):
        # What is over max is left out, so the whole distribution is such that the rest has this median and p90.
        middle, width, below = _whole(length)
        shares = rng.uniform(0, below, size=count)
        drawn: Tokens = np.clip(np.rint(np.exp(middle + width * stats.norm.ppf(shares))), 1, length.max).astype(
            np.int64
        )
        return drawn
    return np.full(count, length, dtype=np.int64)


@cache
def _whole(length: Lognormal) -> tuple[float, float, float]:
    """Mean and standard deviation of the logarithm before what is over `max` is left out, and the share that is not."""

    def at(below: float) -> tuple[float, float]:
        half, ninth = stats.norm.ppf(0.5 * below), stats.norm.ppf(0.9 * below)
        width = log(length.p90 / length.p50) / (ninth - half)
        return log(length.p50) - half * width, width

    def too_far(below: float) -> float:
        middle, width = at(below)
        return float(middle + width * stats.norm.ppf(below) - log(length.max))

    below = 1.0 if too_far(_ALL) < 0 else float(optimize.brentq(too_far, 1e-12, _ALL))
    return *at(below), below


def spread(tokens: Tokens, share: float, rng: Generator) -> Tokens:
    """Each length, evenly anywhere within ± `share` of what it is; at least one token."""
    return np.maximum(1, np.rint(tokens * rng.uniform(1 - share, 1 + share, size=tokens.size)).astype(np.int64))


def longest(length: Length) -> int:
    """The greatest length that can be drawn."""
    return length if isinstance(length, int) else length.high if isinstance(length, Uniform) else length.max
