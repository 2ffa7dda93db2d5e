"""Pairs of runs whose true ratio and noise are known: what the verdicts are tried on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from context_research.compare.statistics import PRACTICAL, Pairs, pairs_for

Kind = Literal["lognormal", "student", "shared"]
"""Of noise: `student` has 3 degrees of freedom and the same sd; `shared` is lognormal, and a session's metrics
correlate by `_SHARED`."""
KINDS: tuple[Kind, ...] = ("lognormal", "student", "shared")
NOISES = (0.01, 0.03, 0.05, 0.10)
"""Sd of one run's logarithm. A pair's log ratio has √2 times it."""
PAIRS = (6, 8, 10, 12)
SLOWDOWN = 1.10
_SHARED = 0.8
_DRIFT = 0.2
"""Sd of what both runs of a pair have in common. It must cancel."""
_FAMILY = [(case, metric) for case in ("p256-c1", "p256-c4", "p1024-c1", "p1024-c4") for metric in ("tpot", "ttft")]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One truth: `affected` of `family` metrics have the ratio `effect`, the others 1."""

    family: int
    affected: int
    noise: float
    pairs: int
    trials: int
    kind: Kind = "lognormal"
    effect: float = SLOWDOWN

    def truths(self) -> list[float]:
        """Each metric's ratio. The affected ones are TPOT first, in the order of the cases."""
        order = sorted(range(self.family), key=lambda index: _FAMILY[index][1])
        return [self.effect if order.index(index) < self.affected else 1.0 for index in range(self.family)]

    def generator(self, seed: int) -> np.random.Generator:
        """Of this scenario's own, so that it doesn't depend on which others run."""
        permille = [round(1000 * value) for value in (self.noise, self.effect)]
        return np.random.default_rng([seed, self.family, self.affected, self.pairs, KINDS.index(self.kind), *permille])

    @property
    def truth(self) -> str:
        """Which metrics are affected, in words."""
        return "alone" if self.family == 1 else f"{self.affected} of {self.family}"

    def pairs_measured(self, generator: np.random.Generator) -> list[Pairs]:
        """One trial: the family's values, metrics × pairs of each arm."""
        truths = self.truths()
        shape = (len(truths), self.pairs)
        drift = np.exp(_DRIFT * generator.standard_normal(self.pairs))
        arms = [drift * np.exp(self.noise * _unit_noise(self.kind, shape, generator)) for _ in range(2)]
        return [
            Pairs(case, metric, "p50", "session", True, tuple(baseline.tolist()), tuple((truth * candidate).tolist()))
            for (case, metric), truth, baseline, candidate in zip(_FAMILY, truths, *arms, strict=False)
        ]


def scenarios(trials: int) -> list[Scenario]:
    """Most trials where an error rate is to be shown; fewer where only a change with the noise is to be seen."""
    half, third = trials // 2, trials // 3
    noises: list[tuple[float, Kind]] = [*((noise, "lognormal") for noise in NOISES), (0.05, "student")]
    alone = [
        Scenario(1, affected, noise, pairs, trials, kind)
        for noise, kind in noises
        for pairs in PAIRS
        for affected in (0, 1)
    ]
    aa = [Scenario(8, 0, 0.05, pairs, trials) for pairs in PAIRS]
    aa += [Scenario(8, 0, noise, 10, half) for noise in NOISES if noise != 0.05]
    aa += [Scenario(8, 0, 0.05, pairs, half, kind) for kind in ("student", "shared") for pairs in (6, 10)]
    effects = [
        Scenario(8, affected, 0.05, pairs, trials if pairs == 10 else third) for affected in (4, 1) for pairs in PAIRS
    ]
    effects += [Scenario(8, affected, noise, 10, third) for affected in (4, 1) for noise in (0.03, 0.10)]
    needed = [
        Scenario(
            family,
            1,
            noise=0.03,
            pairs=pairs_for(0.03 * math.sqrt(2), PRACTICAL, family),
            trials=third,
            effect=1 + PRACTICAL,
        )
        for family in (1, 8)
    ]
    return alone + aa + effects + needed


def _unit_noise(kind: Kind, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Of mean 0 and sd 1."""
    if kind == "student":
        return generator.standard_t(3, shape) / math.sqrt(3)
    noise = generator.standard_normal(shape)
    if kind == "shared":
        return math.sqrt(_SHARED) * generator.standard_normal(shape[1]) + math.sqrt(1 - _SHARED) * noise
    return noise
