"""How often the verdicts are right, on simulated runs whose truth is known. See README.md."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import scipy
from scipy import stats
from tabulate import tabulate

from context_research.compare.statistics import ALPHA, PRACTICAL, Pairs, Verdict, decide, pairs_for

Kind = Literal["lognormal", "student", "shared"]
"""Of noise: `student` has 3 degrees of freedom and the same sd; `shared` is lognormal, and a session's metrics
correlate by `_SHARED`."""
KINDS: tuple[Kind, ...] = ("lognormal", "student", "shared")
NOISES = (0.01, 0.03, 0.05, 0.10)
"""Sd of one run's logarithm. A pair's log ratio has √2 times it."""
PAIRS = (6, 8, 10, 12)
SLOWDOWN = 1.10
POWER_BAR = 0.9
"""Of calling a 10 % slowdown `worse` with 5 % noise and 10 pairs."""
NONE_MISSED, MISSED = 0, 1
"""Exit codes."""
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


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of`, with its Wilson interval."""

    count: int
    of: int

    @property
    def rate(self) -> float:
        return self.count / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        found = stats.binomtest(self.count, self.of).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        if not self.of:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.1f} ({100 * low:.1f}–{100 * high:.1f})"

    def as_json(self) -> dict[str, Any] | None:
        return (
            {"count": self.count, "of": self.of, "rate": self.rate, "interval_95": self.interval} if self.of else None
        )


@dataclass(slots=True)
class Tally:
    """What was called in all trials of a scenario."""

    scenario: Scenario
    affected: Counter[str] = field(default_factory=Counter)
    unaffected: Counter[str] = field(default_factory=Counter)
    families_with_false_alarm: int = 0
    covered: int = 0
    false_share: float = 0.0
    """Sum over trials of false alarms / alarms: what Benjamini-Hochberg bounds."""

    def add(self, truths: Sequence[float], verdicts: Sequence[Verdict]) -> None:
        alarms = false = 0
        for truth, verdict in zip(truths, verdicts, strict=True):
            if verdict.outcome is None or verdict.low is None or verdict.high is None:
                raise ValueError(f"every pair has values, yet {verdict}")
            (self.unaffected if truth == 1 else self.affected)[verdict.outcome] += 1
            self.covered += verdict.low <= truth <= verdict.high
            alarm = verdict.outcome in ("better", "worse")
            alarms, false = alarms + alarm, false + (alarm and truth == 1)
        self.families_with_false_alarm += false > 0
        self.false_share += false / max(1, alarms)

    @property
    def coverage(self) -> Share:
        return Share(self.covered, self.scenario.trials * self.scenario.family)

    @property
    def false_alarms(self) -> Share:
        """Of the metrics without an effect."""
        return Share(self.unaffected["better"] + self.unaffected["worse"], self.unaffected.total())

    @property
    def any_false_alarm(self) -> Share:
        return Share(self.families_with_false_alarm, self.scenario.trials)

    @property
    def power(self) -> Share:
        return self.of_affected("worse")

    @property
    def false_discovery_rate(self) -> float:
        return self.false_share / self.scenario.trials

    def of_affected(self, outcome: str) -> Share:
        return Share(self.affected[outcome], self.affected.total())

    def of_unaffected(self, outcome: str) -> Share:
        return Share(self.unaffected[outcome], self.unaffected.total())

    def as_json(self) -> dict[str, Any]:
        outcomes = ("better", "worse", "equivalent", "undecided")
        return {
            "scenario": asdict(self.scenario),
            "affected": {outcome: self.of_affected(outcome).as_json() for outcome in outcomes},
            "unaffected": {outcome: self.of_unaffected(outcome).as_json() for outcome in outcomes},
            "false_alarms": self.false_alarms.as_json(),
            "families_with_false_alarm": self.any_false_alarm.as_json(),
            "false_discovery_rate": self.false_discovery_rate,
            "coverage": self.coverage.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """`holds` or `MISSED` where the share's whole interval is on one side of the limit; else the trials don't tell."""

    name: str
    limit: float
    at_most: bool
    share: Share

    @property
    def verdict(self) -> str:
        low, high = self.share.interval
        if self.at_most:
            return "holds" if high <= self.limit else "MISSED" if low > self.limit else "undecided"
        return "holds" if low >= self.limit else "MISSED" if high < self.limit else "undecided"

    def as_json(self) -> dict[str, Any]:
        limit = f"{'≤' if self.at_most else '≥'} {self.limit:g}"
        return {"name": self.name, "bar": limit, "share": self.share.as_json(), "verdict": self.verdict}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--trials",
    type=click.IntRange(6),
    default=500,
    help="Of each row of a family of one, of the main A/A rows and of the power bar; others have a half or a third.",
)
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
def main(trials: int, seed: int, out: Path | None) -> None:
    """Shares of right and wrong verdicts on simulated pairs, in percent with 95 % intervals.

    Exit code 1 if a bar is missed.
    """
    planned = scenarios(trials)
    tallies: list[Tally] = []
    with click.progressbar(length=sum(map(_cost, planned)), label="verdicts", file=sys.stderr) as progress:
        for scenario in planned:
            tallies.append(simulate(scenario, seed))
            progress.update(_cost(scenario))
    judged = bars(tallies)
    click.echo(_markdown(tallies, judged))
    if out is not None:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
        results = {
            "seed": seed,
            "versions": versions,
            "bars": [bar.as_json() for bar in judged],
            "rows": [tally.as_json() for tally in tallies],
        }
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(MISSED if any(bar.verdict == "MISSED" for bar in judged) else NONE_MISSED)


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


def simulate(scenario: Scenario, seed: int) -> Tally:
    """All trials of `scenario`, each judged by `decide`. The same for the same seed."""
    generator, truths, tally = scenario.generator(seed), scenario.truths(), Tally(scenario)
    for _ in range(scenario.trials):
        tally.add(truths, decide(_measured(scenario, truths, generator)))
    return tally


def bars(tallies: Sequence[Tally]) -> list[Bar]:
    """False alarms over all rows, where trials suffice for a tight interval, and in the row that has the most."""
    alone = [t for t in tallies if t.scenario.family == 1 and not t.scenario.affected]
    families = [t for t in tallies if t.scenario.family > 1 and not t.scenario.affected]
    spared = [t for t in tallies if t.scenario.family > 1 and t.scenario.affected]
    found = []
    for name, shares in (
        ("A/A, family of 1: metrics called better or worse", [t.false_alarms for t in alone]),
        ("A/A, family of 8: families with any alarm", [t.any_false_alarm for t in families]),
        ("family of 8 with an effect: unaffected metrics alarmed", [t.false_alarms for t in spared]),
    ):
        found.append(Bar(f"{name}, all rows", ALPHA, True, _pooled(shares)))
        found.append(Bar(f"{name}, highest row", ALPHA, True, max(shares, key=lambda share: share.rate)))
    found += [
        Bar(f"power, 10 % effect, 5 % noise, 10 pairs, {_truth(s)}", POWER_BAR, False, tally.power)
        for tally in tallies
        if (s := tally.scenario).affected and (s.noise, s.pairs, s.kind, s.effect) == (0.05, 10, "lognormal", SLOWDOWN)
    ]
    return found


def _measured(scenario: Scenario, truths: Sequence[float], generator: np.random.Generator) -> list[Pairs]:
    """A family's values: metrics × pairs of each arm."""
    shape = (len(truths), scenario.pairs)
    drift = np.exp(_DRIFT * generator.standard_normal(scenario.pairs))
    arms = [drift * np.exp(scenario.noise * _unit_noise(scenario.kind, shape, generator)) for _ in range(2)]
    return [
        Pairs(case, metric, "p50", "session", True, tuple(baseline.tolist()), tuple((truth * candidate).tolist()))
        for (case, metric), truth, baseline, candidate in zip(_FAMILY, truths, *arms, strict=False)
    ]


def _unit_noise(kind: Kind, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Of mean 0 and sd 1."""
    if kind == "student":
        return generator.standard_t(3, shape) / math.sqrt(3)
    noise = generator.standard_normal(shape)
    if kind == "shared":
        return math.sqrt(_SHARED) * generator.standard_normal(shape[1]) + math.sqrt(1 - _SHARED) * noise
    return noise


def _cost(scenario: Scenario) -> int:
    """For the progress line: the sign flips of 12 pairs and more cost the most."""
    return scenario.trials * scenario.family * (3 if scenario.pairs < 10 else 5 if scenario.pairs < 12 else 13)


def _pooled(shares: Iterable[Share]) -> Share:
    shares = list(shares)
    return Share(sum(share.count for share in shares), sum(share.of for share in shares))


def _truth(scenario: Scenario) -> str:
    return "alone" if scenario.family == 1 else f"{scenario.affected} of {scenario.family}"


def _noise(scenario: Scenario) -> str:
    kind = {"lognormal": "", "student": ", Student t", "shared": ", shared"}[scenario.kind]
    return f"{scenario.noise:.0%}".replace("%", " %") + kind


def _markdown(tallies: Sequence[Tally], judged: Sequence[Bar]) -> str:
    """Every table, in percent with its interval."""
    usual = [tally for tally in tallies if tally.scenario.effect == SLOWDOWN]
    alone = [tally for tally in usual if tally.scenario.family == 1]
    families = [tally for tally in usual if tally.scenario.family > 1]
    effects = [tally for tally in families if tally.scenario.affected]
    needed = [tally for tally in tallies if tally.scenario.effect != SLOWDOWN]
    header = ("noise", "pairs", "trials")

    def start(tally: Tally) -> tuple[str, int, int]:
        return _noise(tally.scenario), tally.scenario.pairs, tally.scenario.trials

    tables: list[tuple[str, Sequence[str], list[Sequence[object]]]] = [
        (
            "Bars",
            ("bar", "limit", "%", ""),
            [(bar.name, bar.as_json()["bar"], str(bar.share), bar.verdict) for bar in judged],
        ),
        (
            "Family of one, A/A",
            (*header, "better or worse", "equivalent", "undecided"),
            [
                (*start(t), t.false_alarms, t.of_unaffected("equivalent"), t.of_unaffected("undecided"))
                for t in alone
                if not t.scenario.affected
            ],
        ),
        (
            "Family of one, 10 % slower",
            (*header, "worse", "better", "equivalent", "undecided"),
            [(*start(t), *_outcomes(t)) for t in alone if t.scenario.affected],
        ),
        (
            "Family of 8, A/A",
            (*header, "families with an alarm", "metrics alarmed", "metrics equivalent"),
            [
                (*start(t), t.any_false_alarm, t.false_alarms, t.of_unaffected("equivalent"))
                for t in families
                if not t.scenario.affected
            ],
        ),
        (
            "Family of 8, some 10 % slower: the affected",
            ("affected", *header, "worse", "better", "equivalent", "undecided"),
            [(_truth(t.scenario), *start(t), *_outcomes(t)) for t in effects],
        ),
        (
            "Family of 8, some 10 % slower: the unaffected",
            ("affected", *header, "metrics alarmed", "families with a false alarm", "false share of alarms, mean"),
            [
                (
                    _truth(t.scenario),
                    *start(t),
                    t.false_alarms,
                    t.any_false_alarm,
                    f"{100 * t.false_discovery_rate:.1f}",
                )
                for t in effects
            ],
        ),
        (
            f"A {PRACTICAL:.0%} slowdown with `pairs_for`'s pairs".replace("%", " %", 1),
            ("affected", *header, "worse", "better", "equivalent", "undecided"),
            [(_truth(t.scenario), *start(t), *_outcomes(t)) for t in needed],
        ),
        (
            "True ratio inside the 95 % interval, all lognormal rows and all Student t rows",
            ("pairs", "lognormal", "Student t"),
            [(n, *(_coverage(tallies, n, kind) for kind in ("lognormal", "student"))) for n in PAIRS],
        ),
    ]
    return "\n\n".join(
        f"**{title}**\n\n"
        + tabulate([[str(cell) for cell in row] for row in rows], names, tablefmt="github", disable_numparse=True)
        for title, names, rows in tables
    )


def _outcomes(tally: Tally) -> tuple[Share, ...]:
    return tuple(tally.of_affected(outcome) for outcome in ("worse", "better", "equivalent", "undecided"))


def _coverage(tallies: Sequence[Tally], pairs: int, kind: Kind) -> Share:
    """Pooled: neither the noise's size nor the true ratio changes whether the interval holds it."""
    return _pooled(t.coverage for t in tallies if (t.scenario.pairs, t.scenario.kind) == (pairs, kind))


if __name__ == "__main__":
    main()
