"""Several questions, several looks: what a p is worth beside the others. Sources: docs/statistics.md."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

_SEQUENCES = 2**20
"""Simulated A/As behind the price of looks."""
_CHUNKS = 8
_FINEST = 1e-4
"""Below this p too few of the simulated A/As are left to count; the price of looks there is the one here."""


def adjust(p: Sequence[float], after: Sequence[int | None] | None = None) -> list[float]:
    """Adjusted p's: deciding where they are ≤ α errs in any of them with a probability of at most α.

    Holm's step-down method (1979). `after[i]` is the index of the question that has to be decided before question i is
    asked, None: it is asked at once. Then it is the graph of Bretz et al. (2009): α is split evenly among those asked
    at once; one that is decided hands half of its share to what comes after it, and the rest (all, where nothing does)
    to the others asked at once.
    """
    after = [None] * len(p) if after is None else after
    share, hands = _graph(after)
    adjusted, left, highest = [1.0] * len(p), set(range(len(p))), 0.0
    while left:
        worth = {i: p[i] / share[i] if share[i] > 0 else np.inf for i in left}
        best = min(left, key=lambda i: (worth[i], i))
        highest = max(highest, min(1.0, float(worth[best])))
        adjusted[best] = highest
        left.remove(best)
        if highest >= 1:
            break  # so are all that are left
        share, hands = _without(best, share, hands)
    return adjusted


Floats = NDArray[np.float64]


def _graph(after: Sequence[int | None]) -> tuple[Floats, Floats]:
    """Each question's share of α, and what part of it goes to which other once it is decided."""
    count = len(after)
    first = [i for i in range(count) if after[i] is None]
    share, hands = np.zeros(count), np.zeros((count, count))
    share[first] = 1 / max(1, len(first))
    for i in range(count):
        following = [j for j in range(count) if after[j] == i]
        others = [j for j in first if j != i]
        to_following = (0.5 if others else 1.0) if following else 0.0
        hands[i, following] = to_following / max(1, len(following))
        hands[i, others] = (1 - to_following) / max(1, len(others))
    return share, hands


def _without(j: int, share: Floats, hands: Floats) -> tuple[Floats, Floats]:
    """The graph once question j is decided (Bretz et al. 2009, algorithm 1)."""
    share = share + share[j] * hands[j]
    loops = hands[:, j] * hands[j]
    rest = hands + np.outer(hands[:, j], hands[j])
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where((loops < 1)[:, None], rest / (1 - loops)[:, None], 0.0)
    rest[:, j] = rest[j] = 0.0
    np.fill_diagonal(rest, 0.0)
    share[j] = 0.0
    return share, rest


def any_look(p: float, looks: Sequence[int]) -> float:
    """The probability that identical arms show a p as small as this at any of the planned looks, each after so many
    pairs: what a p is worth where one could have stopped at each (Armitage, McPherson & Rowe 1969; Pocock 1977)."""
    if len(looks) < 2:
        return p
    least = _least_p(tuple(looks))
    reference = max(p, _FINEST)
    seen = float(np.searchsorted(least, reference, side="right")) / len(least)
    return min(1.0, p * seen / reference)


@cache
def _least_p(looks: tuple[int, ...]) -> Floats:
    """The least p of the looks in each of many simulated A/As with normal noise, in ascending order."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(_CHUNKS):
        noise = generator.standard_normal((looks[-1], _SEQUENCES // _CHUNKS))
        sums, squares = noise.cumsum(axis=0), (noise**2).cumsum(axis=0)
        p = []
        for n in looks:
            mean = sums[n - 1] / n
            error = np.sqrt((squares[n - 1] / n - mean**2) / (n - 1))
            p.append(2 * special.stdtr(n - 1, -np.abs(mean) / error))
        found.append(np.min(p, axis=0))
    return np.sort(np.concatenate(found))
