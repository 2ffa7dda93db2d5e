"""Other ways to judge the same pairs, beside the one that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from context_research.compare.statistics import ALPHA, Pairs, describe

Floats = NDArray[np.float64]


def t_alone(family: Sequence[Pairs]) -> Floats:
    """Student's t, each figure by itself."""
    return np.array([describe(pairs).p for pairs in family], dtype=float)


def t_false_discovery(family: Sequence[Pairs]) -> Floats:
    """Student's t with Benjamini and Hochberg's correction."""
    return np.asarray(stats.false_discovery_control(t_alone(family)))


def flips_false_discovery(family: Sequence[Pairs]) -> Floats:
    """Exact sign flips with Benjamini and Hochberg's correction: the rule until 2026-11-28."""
    return np.asarray(stats.false_discovery_control([describe(pairs).p_sign_flip or 1.0 for pairs in family]))


def joint_flips(family: Sequence[Pairs]) -> Floats:
    """Step-down max-T over joint sign flips (Westfall & Young 1993): keeps how figures of a session hang together."""
    values = np.stack([pairs.changes for pairs in family], axis=1)  # [pair, figure]
    count = len(values)
    signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    means, squares = signs @ values / count, (values**2).sum(axis=0)
    t = np.abs(means) / np.sqrt((squares / count - means**2) / (count - 1))  # [flip, figure]; flip 0 is the one seen
    order = np.argsort(-t[0])
    p = np.ones(len(family))
    reached = 0.0
    for rank, figure in enumerate(order):
        largest = t[:, order[rank:]].max(axis=1)
        reached = max(reached, float((largest >= t[0, figure] * (1 - 1e-12)).mean()))
        p[figure] = reached
    return p


ALTERNATIVES: dict[str, Callable[[Sequence[Pairs]], Floats]] = {
    "Student's t, no correction": t_alone,
    "Student's t, Benjamini-Hochberg": t_false_discovery,
    "sign flips, Benjamini-Hochberg": flips_false_discovery,
    "max-T over joint sign flips, step-down": joint_flips,
}
"""Each gives adjusted p's: different where ≤ ALPHA."""


def called(name: str, family: Sequence[Pairs]) -> list[bool]:
    """What this way calls different."""
    return [bool(p <= ALPHA) for p in ALTERNATIVES[name](family)]
