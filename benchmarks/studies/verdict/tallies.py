"""What verdicts were called on simulated pairs, counted, and held against the bars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from scipy import stats

from alternatives import ALTERNATIVES, called
from context_research.compare.statistics import ALPHA, MIN_PAIRS, PRACTICAL, Pairs, Verdict, decide, settled
from scenarios import Scenario

_MOST_ALARMS = 0.06
"""The upper end of the 95 % interval of a cell's family-wise error."""
_LEAST_COVERED = 0.93
_ENOUGH = 2000
"""Trials from which a cell tells whether its error is within the bar."""
_BY_OTHERS = 1000
"""Trials of a cell that are judged in other ways too."""


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
    """What was called in all trials of a scenario. `affected`, `spared`: of the figures with an effect, and without."""

    scenario: Scenario
    affected: Counter[str] = field(default_factory=Counter)
    spared: Counter[str] = field(default_factory=Counter)
    false_alarms: int = 0
    """Families in which a figure without an effect was called better or worse, or one with an effect the wrong way."""
    wrongly_equivalent: int = 0
    """Families in which a figure whose true ratio is at the practical margin or beyond was called equivalent."""
    covered: int = 0
    fragile: int = 0
    pairs: int = 0
    """Over all trials: fewer than planned where it ended at a look."""
    by_others: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Another way to judge -> its families with a false alarm, and the affected figures that it found."""

    def add(self, pairs: Sequence[Pairs], verdicts: Sequence[Verdict]) -> None:
        truths = self.scenario.truths
        false = equivalent = False
        for truth, verdict in zip(truths, verdicts, strict=True):
            outcome = verdict.outcome or ""
            (self.spared if truth == 1 else self.affected)[outcome] += 1
            false |= outcome == "better" or (outcome == "worse" and truth == 1)
            equivalent |= outcome == "equivalent" and truth >= 1 + PRACTICAL
            self.covered += (
                verdict.low is not None and verdict.high is not None and verdict.low <= truth <= verdict.high
            )
            self.fragile += bool(verdict.fragile)
        self.false_alarms += false
        self.wrongly_equivalent += equivalent
        self.pairs += len(pairs[0].baseline)

    def add_others(self, pairs: Sequence[Pairs]) -> None:
        for name in ALTERNATIVES:
            different = list(zip(self.scenario.truths, called(name, pairs), strict=True))
            alarms, found = self.by_others.get(name, (0, 0))
            false = any(called and truth == 1 for truth, called in different)
            self.by_others[name] = alarms + false, found + sum(called and truth != 1 for truth, called in different)

    @property
    def any_false_alarm(self) -> Share:
        return Share(self.false_alarms, self.scenario.trials)

    @property
    def power(self) -> Share:
        return Share(self.affected["worse"], self.affected.total())

    @property
    def coverage(self) -> Share:
        """Of the ratios' intervals; there are none where values are 0."""
        some = self.scenario.kind != "zeros"
        return Share(self.covered * some, (self.affected.total() + self.spared.total()) * some)

    @property
    def any_wrongly_equivalent(self) -> Share:
        return Share(self.wrongly_equivalent, self.scenario.trials)

    @property
    def mean_pairs(self) -> float:
        return self.pairs / self.scenario.trials

    def others(self, name: str) -> tuple[Share, Share]:
        """Families with a false alarm, and affected figures found, by another way to judge."""
        alarms, found = self.by_others[name]
        trials = min(self.scenario.trials, _BY_OTHERS)
        return Share(alarms, trials), Share(found, trials * sum(truth != 1 for truth in self.scenario.truths))

    def as_json(self) -> dict[str, object]:
        return {
            "scenario": asdict(self.scenario),
            "affected": dict(self.affected),
            "spared": dict(self.spared),
            "any_false_alarm": self.any_false_alarm.as_json(),
            "power": self.power.as_json(),
            "coverage": self.coverage.as_json(),
            "any_wrongly_equivalent": self.any_wrongly_equivalent.as_json(),
            "fragile": self.fragile,
            "mean_pairs": self.mean_pairs,
            "others": {name: [each.as_json() for each in self.others(name)] for name in self.by_others},
        }


def simulate(scenario: Scenario, seed: int) -> Tally:
    """All trials of `scenario`, each judged by `decide`. The same for the same seed."""
    generator, tally = scenario.generator(seed), Tally(scenario)
    beside = not scenario.looks and not scenario.tails and scenario.kind != "zeros" and scenario.pairs >= MIN_PAIRS
    for trial in range(scenario.trials):
        every = scenario.measured(generator)
        for look in scenario.looks or (scenario.pairs,):
            pairs = [replace(each, baseline=each.baseline[:look], candidate=each.candidate[:look]) for each in every]
            verdicts = decide(pairs, looks=scenario.looks, after=scenario.after)
            if settled(verdicts[: scenario.family], scenario.looks[-1] if scenario.looks else 0):
                break
        tally.add(pairs, verdicts)
        if beside and trial < _BY_OTHERS:
            tally.add_others(pairs)
    return tally


@dataclass(frozen=True, slots=True)
class Bar:
    """`holds`, or `MISSED`. Of alarms the interval's upper end counts, of the others the share itself."""

    name: str
    limit: float
    at_most: bool
    share: Share

    @property
    def verdict(self) -> str:
        holds = self.share.interval[1] <= self.limit if self.at_most else self.share.rate >= self.limit
        return "holds" if holds else "MISSED"

    @property
    def rule(self) -> str:
        return f"upper end ≤ {self.limit:g}" if self.at_most else f"≥ {self.limit:g}"

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "bar": self.rule, "share": self.share.as_json(), "verdict": self.verdict}


def bars(tallies: Sequence[Tally]) -> list[Bar]:
    """The worst cell of each kind decides, and all cells together."""
    alike = [t.any_false_alarm for t in tallies if t.scenario.pattern == "none"]
    beside = [t.any_false_alarm for t in tallies if t.scenario.pattern != "none" and t.scenario.trials >= _ENOUGH]
    wrong = [t.any_wrongly_equivalent for t in tallies if t.scenario.effect == 1 + PRACTICAL]
    found = [
        Bar("identical arms: A/Bs with any false alarm, highest cell", _MOST_ALARMS, True, _highest(alike)),
        Bar("identical arms: all cells", ALPHA, True, pooled(alike)),
        Bar("beside true effects: A/Bs with any false alarm, highest cell", _MOST_ALARMS, True, _highest(beside)),
        Bar("at the margin: A/Bs with any wrong `equivalent`, highest cell", _MOST_ALARMS, True, _highest(wrong)),
    ]
    for t in tallies:
        s = t.scenario
        if s.pattern == "none":
            continue
        if s.effect == 2 and s.family == 8 and s.pattern == "ttft":
            found.append(Bar(f"doubled TTFT in 4 cases, 5 %, 6 pairs, {s.kind}", 0.99, False, t.power))
        if s.effect == 1.1 and s.noise == 0.01 and s.pairs == 6:
            found.append(Bar(f"10 %, family of {s.family}, {s.pattern}, 1 %, 6 pairs, {s.kind}", 0.95, False, t.power))
        if s.effect == 1.1 and s.noise == 0.05 and s.looks:
            found.append(Bar(f"10 %, family of {s.family}, {s.pattern}, 5 %, looks, {s.kind}", 0.90, False, t.power))
    for kind in ("normal", "student", "skewed", "shared"):
        six = [t.coverage for t in tallies if (t.scenario.kind, t.scenario.pairs) == (kind, 6) and not t.scenario.looks]
        found.append(Bar(f"interval holds the true ratio, 6 pairs, {kind}", _LEAST_COVERED, False, pooled(six)))
    return found


def _highest(shares: Iterable[Share]) -> Share:
    return max(shares, key=lambda share: share.rate)


def pooled(shares: Iterable[Share]) -> Share:
    """All of them as one."""
    shares = list(shares)
    return Share(sum(share.count for share in shares), sum(share.of for share in shares))
