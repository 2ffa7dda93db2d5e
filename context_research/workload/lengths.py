"""How many tokens prompts and outputs have: drawn from a distribution."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from context_research.settings.workload import Length, Lognormal, Uniform

Tokens = NDArray[np.int64]
_Z90 = float(stats.norm.ppf(0.9))


def draw(length: Length, count: int, rng: Generator) -> Tokens:
    """`count` lengths in tokens."""
    if isinstance(length, Uniform):
        return rng.integers(length.low, length.high, size=count, endpoint=True)
    if isinstance(length, Lognormal):
        sigma = np.log(length.p90 / length.p50) / _Z90
        drawn = np.full(count, length.max + 1, dtype=np.int64)
        while (over := np.flatnonzero(drawn > length.max)).size:
            drawn[over] = np.maximum(1, np.rint(rng.lognormal(np.log(length.p50), sigma, size=over.size)))
        return drawn
    return np.full(count, length, dtype=np.int64)


def spread(tokens: Tokens, share: float, rng: Generator) -> Tokens:
    """Each length, evenly anywhere within ± `share` of what it is; at least one token."""
    return np.maximum(1, np.rint(tokens * rng.uniform(1 - share, 1 + share, size=tokens.size)).astype(np.int64))


def longest(length: Length) -> int:
    """The greatest length that can be drawn."""
    return length if isinstance(length, int) else length.high if isinstance(length, Uniform) else length.max
