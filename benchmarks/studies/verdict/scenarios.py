"""Pairs of runs whose true ratio and noise are known: what the verdicts are tried on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from context_research.compare.statistics import Pairs

Kind = Literal["normal", "student", "skewed", "shared", "odd", "zeros"]
"""Of noise, each of the same sd, but for the last two. `student` has 3 degrees of freedom. `skewed`: a run is now and
then much slower (exponential). `shared`: a session's figures correlate by `_SHARED`. `odd`: one pair has one run in
which everything was `_ODD` slower. `zeros`: three values in ten are 0."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Pattern = Literal["none", "one", "half", "ttft"]
"""Which figures are affected: none, TTFT of the first case, both figures of every second case, every TTFT."""
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
LOOKS = (6, 8, 10, 12)
FAMILIES = (8, 16, 18)
"""TTFT and TPOT of 4, 8 and 9 cases."""
_SHARED, _ODD, _ZERO = 0.8, 1.3, 0.3
_DRIFT = 0.2
"""Sd of what both runs of a pair have in common. It must cancel."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One truth. `noise`: the sd of a pair's log ratio. `effect`: the affected figures' ratio, the others' is 1.

    `looks`: stop at the first after which every figure is decided. `tails`: each figure has a tail that follows it and
    is never affected.
    """

    family: int
    pattern: Pattern
    noise: float
    pairs: int
    trials: int
    kind: Kind = "normal"
    effect: float = 1.10
    looks: tuple[int, ...] = ()
    tails: bool = False

    @property
    def truths(self) -> list[float]:
        """Each figure's ratio: TTFT of every case, TPOT of every case, then the tails."""
        cases = max(1, self.family // 2)
        affected: dict[Pattern, set[int]] = {
            "none": set(),
            "one": {0},
            "half": {index for index in range(self.family) if index % cases % 2 == 0},
            "ttft": set(range(cases)),
        }
        own = [self.effect if index in affected[self.pattern] else 1.0 for index in range(self.family)]
        return own + [1.0] * (self.family if self.tails else 0)

    @property
    def after(self) -> list[int | None]:
        """For each figure the one that has to be decided before it is asked."""
        return [None] * self.family + [*range(self.family if self.tails else 0)]

    def generator(self, seed: int) -> np.random.Generator:
        """Of this scenario's own, so that it doesn't depend on which others run."""
        permille = [round(1000 * value) for value in (self.noise, self.effect)]
        kinds = [PATTERNS.index(self.pattern), KINDS.index(self.kind), len(self.looks), self.tails]
        return np.random.default_rng([seed, self.family, self.pairs, *permille, *kinds])

    def measured(self, generator: np.random.Generator) -> list[Pairs]:
        """One trial: every figure's values, of all pairs."""
        truths = self.truths
        shape = (len(truths), self.pairs)
        drift = np.exp(_DRIFT * generator.standard_normal(self.pairs))
        arms = [drift * np.exp(self.noise / math.sqrt(2) * _noise(self.kind, shape, generator)) for _ in range(2)]
        if self.kind == "odd":
            arms[generator.integers(2)][:, generator.integers(self.pairs)] *= _ODD
        if self.kind == "zeros":
            arms = [arm * (generator.random(shape) >= _ZERO) for arm in arms]
        names = [(f"case-{index % max(1, self.family // 2)}", f"figure-{index}") for index in range(len(truths))]
        return [
            Pairs(case, metric, "p50", "session", True, tuple(baseline.tolist()), tuple((truth * candidate).tolist()))
            for (case, metric), truth, baseline, candidate in zip(names, truths, *arms, strict=True)
        ]


def scenarios(trials: int) -> Iterator[Scenario]:
    """`trials` of most rows; four times as many where the error is known to be at its bound, as t is exact under normal
    noise and Holm's method nearly so; a third where power alone is to be shown."""
    many, third = 4 * trials, max(2, trials // 3)
    usual: tuple[Kind, ...] = ("normal", "student", "skewed", "shared")
    # Identical arms.
    for family in FAMILIES:
        for kind in (*usual, "odd"):
            for pairs in (6, 12) if kind != "odd" else (6,):
                yield Scenario(family, "none", 0.05, pairs, many if kind == "normal" else trials, kind)
            if kind != "odd":
                yield Scenario(family, "none", 0.05, LOOKS[-1], trials, kind, looks=LOOKS)
    for pairs in (4, 8, 10):
        yield Scenario(8, "none", 0.05, pairs, many)
    for pairs in (6, 12):
        yield Scenario(8, "none", 0.01, pairs, many)
        yield Scenario(8, "none", 0.05, pairs, trials, "zeros")
        yield Scenario(1, "none", 0.05, pairs, many)
    yield Scenario(8, "none", 0.05, 6, many, tails=True)
    # Beside true effects.
    for family in FAMILIES:
        for pattern in PATTERNS[1:]:
            yield Scenario(family, pattern, 0.05, 6, many, effect=2.0)
            yield Scenario(family, pattern, 0.05, 12, trials, looks=LOOKS)
            yield Scenario(family, pattern, 0.01, 6, many)
    for kind in usual[1:]:
        yield Scenario(8, "ttft", 0.05, 6, trials, kind, effect=2.0)
        yield Scenario(8, "ttft", 0.05, 12, trials, kind, looks=LOOKS)
        yield Scenario(16, "half", 0.01, 6, trials, kind)
    yield Scenario(8, "half", 0.05, 6, many, effect=2.0, tails=True)
    # How many pairs a 10 % effect takes.
    for family in (8, 16):
        for noise in (0.03, 0.05, 0.07):
            for pairs in (6, 8, 10, 12):
                yield Scenario(family, "ttft", noise, pairs, third)
    for noise in (0.03, 0.07):
        yield Scenario(8, "ttft", noise, 12, third, looks=LOOKS)
    # Just at the practical margin, where `equivalent` is wrong.
    for pairs in (6, 12):
        for noise in (0.005, 0.01):
            yield Scenario(8, "half", noise, pairs, many, effect=1.03)


def _noise(kind: Kind, shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """Of mean 0 and sd 1."""
    if kind == "student":
        return generator.standard_t(3, shape) / math.sqrt(3)
    if kind == "skewed":
        return generator.exponential(size=shape) - 1
    noise = generator.standard_normal(shape)
    if kind == "shared":
        return math.sqrt(_SHARED) * generator.standard_normal(shape[1]) + math.sqrt(1 - _SHARED) * noise
    return noise
