"""What verdicts were called on simulated pairs, counted, and held against the bars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from scipy import stats

from context_research.compare.statistics import ALPHA, Verdict, decide
from scenarios import SLOWDOWN, Scenario

POWER_BAR = 0.9
"""Of calling a 10 % slowdown `worse` with 5 % noise and 10 pairs."""


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
        interval = stats.binomtest(self.count, self.of).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def __str__(self) -> str:
        if not self.of:
            return "–"
        low, high = self.interval
        return f"{100 * self.rate:.1f} ({100 * low:.1f}–{100 * high:.1f})"

    def as_json(self) -> dict[str, object] | None:
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

    def as_json(self) -> dict[str, object]:
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

    @property
    def rule(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "bar": self.rule, "share": self.share.as_json(), "verdict": self.verdict}


def simulate(scenario: Scenario, seed: int) -> Tally:
    """All trials of `scenario`, each judged by `decide`. The same for the same seed."""
    generator, truths, tally = scenario.generator(seed), scenario.truths(), Tally(scenario)
    for _ in range(scenario.trials):
        tally.add(truths, decide(scenario.pairs_measured(generator)))
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
        found.append(Bar(f"{name}, all rows", ALPHA, True, pooled(shares)))
        found.append(Bar(f"{name}, highest row", ALPHA, True, max(shares, key=lambda share: share.rate)))
    found += [
        Bar(f"power, 10 % effect, 5 % noise, 10 pairs, {s.truth}", POWER_BAR, False, tally.power)
        for tally in tallies
        if (s := tally.scenario).affected and (s.noise, s.pairs, s.kind, s.effect) == (0.05, 10, "lognormal", SLOWDOWN)
    ]
    return found


def pooled(shares: Iterable[Share]) -> Share:
    """All of them as one."""
    shares = list(shares)
    return Share(sum(share.count for share in shares), sum(share.of for share in shares))
