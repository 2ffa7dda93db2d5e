"""How many pairs an A/B has: as many as were asked for, or looks after which all is judged; what its pilot says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from context_research.backends.registry import named
from context_research.compare.comparison import Comparison
from context_research.compare.family import split
from context_research.compare.statistics import MIN_PAIRS, Pairs, pairs_for
from context_research.errors import UsageProblem

LOOKS = (6, 8, 10, 12)
"""Pairs after which all is judged, unless others are asked for: most of what 12 pairs find, from fewer on average."""
PILOT = 3
"""Pairs whose scatter says how many will likely decide."""
_DIFFERENCES = (0.05, 0.1, 0.2)
_ENOUGH_FOR = 0.1


def planned(pairs: int | None, looks: Sequence[int] | None, backend: str) -> tuple[int, tuple[int, ...]]:
    """The most pairs there will be, and the numbers of them after which all is judged; none: after the last alone.

    Without either: LOOKS; one pair on a backend that measures nothing, as its pairs are all alike.
    Raises UsageProblem: both, looks that can't be.
    """
    if looks is None:
        if pairs is not None:
            return pairs, ()
        return (LOOKS[-1], LOOKS) if named(backend).measured else (1, ())
    told = f"--looks {','.join(map(str, looks))}"
    if pairs is not None:
        raise UsageProblem(f"{told}: its last number is the most pairs there are; leave --pairs out")
    if not named(backend).measured:
        raise UsageProblem(f"{told}: backend {backend} measures nothing, so there is nothing to decide; leave it out")
    if not looks or looks[0] < MIN_PAIRS or any(one >= other for one, other in pairwise(looks)):
        raise UsageProblem(f"{told}: expected rising numbers of pairs from {MIN_PAIRS} on, such as 6,8,10,12")
    return looks[-1], tuple(looks)


def listed(numbers: Sequence[int], word: str = "or") -> str:
    """``6, 8, 10 or 12``"""
    *before, last = map(str, numbers)
    return f"{', '.join(before)} {word} {last}" if before else last


def pilot(found: Comparison, primary: Sequence[str], looks: Sequence[int]) -> list[str]:
    """How each primary figure's pairs scatter, how many would likely decide, and whether the last of `looks` will do.

    A line each.
    """
    asked = {name: found.pairs(*split(name)) for name in primary if split(name)[0] in found.metrics}
    family = sum(map(len, asked.values()))
    told = [f"{len(found.baseline.units)} pairs are there; how their ratios scatter, and how many would likely decide:"]
    told += [_scatter(pairs, family, looks) for pairs in asked.values()]
    return told


def _scatter(pairs: Sequence[Pairs], family: int, looks: Sequence[int]) -> str:
    name = f"  {pairs[0].metric} {pairs[0].statistic}"
    sds = [float(each.changes.std(ddof=1)) for each in pairs if each.have_ratios and len(each.complete) > 1]
    if not sds:
        return f"{name}: not known, as there is no value, or a 0"
    typical, worst = float(np.median(sds)), max(sds)
    spread = f"{typical:.1%}" + (f" (worst of {len(sds)}: {worst:.1%})" if len(sds) > 1 else "")
    needed = {by: tuple(pairs_for(sd, by, family, looks) for sd in (typical, worst)) for by in _DIFFERENCES}
    each = ", ".join(f"{by:.0%}: {_or_worst(*some)}" for by, some in needed.items())
    few = ""
    if (enough := needed[_ENOUGH_FOR][0]) > looks[-1]:
        cure = f"more requests a session, or an A/B of --pairs {enough}"
        few = f"; {looks[-1]} will hardly do for {_ENOUGH_FOR:.0%}: {cure}"
    return f"{name}: sd {spread}; pairs for {each}{few}"


def _or_worst(typical: int, worst: int) -> str:
    return f"{typical}" if typical == worst else f"{typical} ({worst})"
