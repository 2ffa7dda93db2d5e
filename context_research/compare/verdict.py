"""One comparison judged: verdicts on the metrics named beforehand, descriptions of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from context_research.backends.registry import named
from context_research.compare import statistics
from context_research.compare.comparison import Comparison, Side, check_comparable
from context_research.compare.family import PRIMARY, offered, split, tails
from context_research.compare.statistics import MIN_PAIRS, PRACTICAL, Pairs, Verdict
from context_research.errors import UsageProblem
from context_research.records.verdict import SideRecord, VerdictRecord

START_NOISE = 0.1
"""How far two starts of one engine lay apart on the machine this was measured on (2 CPU cores; docs/statistics.md).

Two single runs are two starts: their repeats can't show it. The sessions of an A/B are starts of their own, and do.
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """`primary` are the family's verdicts, `descriptive` have ratio and interval and no outcome."""

    comparison: Comparison
    primary: Sequence[Verdict]
    descriptive: Sequence[Verdict]
    practical: float
    start_noise: float
    beforehand: bool = True
    """Whether the family was named before anything was measured; otherwise the verdicts are explorative."""
    noise_floor: str | None = None
    """The A/A that was looked at."""
    asked_at_once: int = 0
    """So many of `primary`, its first ones, wait for no other's decision."""

    @property
    def first(self) -> Sequence[Verdict]:
        """What was asked at once: an A/B may end at a look where more pairs would hardly decide more of it."""
        return self.primary[: self.asked_at_once]

    @property
    def measured(self) -> bool:
        """Whether engines ran; a simulator's figures are judged by nobody."""
        return named(self.comparison.baseline.runs[0].metadata.backend).measured

    @property
    def worse(self) -> list[Verdict]:
        return [found for found in self.primary if found.outcome == "worse"]

    def record(self) -> VerdictRecord:
        """verdict.json."""
        one, comparison = self.comparison.baseline.runs[0].metadata, self.comparison
        return VerdictRecord(
            comparison=comparison.name,
            unit=comparison.unit,
            experiment=one.experiment,
            backend=one.backend,
            device=one.device,
            model=one.model,
            sides=tuple(_side(side) for side in comparison.sides),
            planned_pairs=comparison.planned,
            looks=comparison.looks,
            practical=self.practical,
            start_noise=self.start_noise,
            named_beforehand=self.beforehand,
            noise_floor=self.noise_floor,
            primary=tuple(found.record() for found in self.primary),
            descriptive=tuple(found.record() for found in self.descriptive),
            allowed_differences=dict(comparison.allowed),
        )


def _side(side: Side) -> SideRecord:
    return SideRecord(arm=side.arm, label=side.label, runs=tuple(run.files.run_id for run in side.runs))


def judge(
    comparison: Comparison,
    primary: Sequence[str] | None = None,
    practical: float | None = None,
    start_noise: float | None = None,
    noise_floor: Comparison | None = None,
) -> Findings:
    """Judge the `primary` metrics (``ttft``, ``ttft.p90``, ``chat.ttft``), describe the others.

    `start_noise` counts where the units are repeats of single runs (default: START_NOISE). `noise_floor`: an A/A of the
    same experiment; what differs in it is not decided here either.

    Raises UsageProblem: no such metric, a noise floor that is no A/A.
    """
    beforehand = primary is None  # the experiment's own is what everyone can know beforehand
    primary = _of_the_experiment(comparison) if primary is None else primary
    practical = PRACTICAL if practical is None else practical
    noise = 0.0 if comparison.unit == "session" else START_NOISE if start_noise is None else start_noise
    family, after = _family(comparison, primary)
    judged = {(pairs.case, pairs.metric, pairs.statistic) for pairs in family}
    others = [
        pairs
        for metric in comparison.metrics
        for pairs in comparison.pairs(metric)
        if (pairs.case, pairs.metric, pairs.statistic) not in judged and pairs.complete
    ]
    if not (backend := named(comparison.baseline.runs[0].metadata.backend)).measured:
        # Nothing in it is a matter of chance: that it comes out alike six times says nothing.
        family = [pairs for pairs, first in zip(family, after, strict=True) if first is None]
        found = [statistics.ratio_alone(pairs, f"{backend.name}: not measured, so no verdict") for pairs in family]
        rest = [statistics.ratio_alone(pairs) for pairs in others]
        return Findings(comparison, found, rest, practical, noise, beforehand, asked_at_once=len(found))
    found = statistics.decide(family, practical, noise, comparison.looks, after)
    found = [_unless_overloaded(each, comparison) for each in found]
    if noise_floor is not None:
        allowed = ["seed", *comparison.allowed]
        check_comparable(comparison.baseline.runs[0], noise_floor.baseline.runs[0], allowed)
        alarms = _alarms(noise_floor, primary, practical)
        found = [_unless_noise(each, alarms) for each in found]
    rest = [statistics.describe(pairs, practical, noise) for pairs in others]
    floor = noise_floor.name if noise_floor else None
    return Findings(comparison, found, rest, practical, noise, beforehand, floor, after.count(None))


def _of_the_experiment(comparison: Comparison) -> Sequence[str]:
    """What its configuration names; of runs of earlier versions what all experiments had."""
    primary = comparison.baseline.runs[0].metadata.settings.get("primary")
    return [str(each) for each in primary] if isinstance(primary, list) else PRIMARY


def _family(comparison: Comparison, primary: Sequence[str]) -> tuple[list[Pairs], list[int | None]]:
    """The questions, and for each the one that has to be decided before it is asked, by its index; None: at once.

    The primary figures are asked at once, in every case and of every arm. Each one's tails follow it, the nearer one
    first, as far as every pair has them: how many samples there are was planned, and says nothing of their values.
    """
    family = list(dict.fromkeys(pairs for name in primary for pairs in _named(comparison, name)))
    after: list[int | None] = [None] * len(family)
    for index, pairs in enumerate(list(family)):
        before = index
        for tail in tails(pairs.statistic):
            of_all = comparison.pairs(pairs.metric, tail)
            [own] = [each for each in of_all if (each.case, each.arm) == (pairs.case, pairs.arm)]
            if own in family or len(own.complete) < len(own.baseline):
                break
            family.append(own)
            after.append(before)
            before = len(family) - 1
    return family, after


def _unless_overloaded(found: Verdict, comparison: Comparison) -> Verdict:
    """A latency that was withheld lacks no samples: there was no steady state."""
    sides = (comparison.baseline, *(side for side in comparison.candidates if side.arm == found.pairs.arm))
    grown = [side.label for side in sides if found.pairs.case in side.overloaded]
    if len(found.pairs.complete) == len(found.pairs.baseline):
        return found
    if not grown:
        why = dict.fromkeys(filter(None, (_missing(side, found.pairs) for side in sides)))
        return replace(found, reason="; ".join(why), pairs_needed=None) if why else found
    told = f"overloaded: {' and '.join(grown)}; a latency would only say how long the run was"
    return replace(found, reason=told, pairs_needed=None)


def _missing(side: Side, pairs: Pairs) -> str | None:
    """Why one side's units have no value: the first that says so."""
    figures = (unit.get(pairs.case, {}).get(pairs.metric) for unit in side.units)
    return next((f"{side.label}: {each.missing}" for each in figures if each and each.missing), None)


def _named(comparison: Comparison, name: str) -> list[Pairs]:
    metric, statistic = split(name)
    if metric == "capacity" and metric not in comparison.metrics:
        raise UsageProblem(
            f"{comparison.name} has no capacity to judge: it is a whole run's of one repeat, at two rates or more; "
            "compare by an A/B (context-research ab), or other figures (--primary ttft)"
        )
    if metric not in comparison.metrics:
        raise UsageProblem(f"--primary {name}: no such figure in {comparison.name}; {offered(comparison.metrics)}")
    return comparison.pairs(metric, statistic)


_Figure = tuple[str, str, str]
"""Case, metric, statistic."""


def _alarms(noise_floor: Comparison, primary: Sequence[str], practical: float) -> Mapping[_Figure, Verdict]:
    if not noise_floor.same_arms:
        raise UsageProblem(f"{noise_floor.name} is no A/A: its arms differ, so it shows no noise floor")
    if (count := len(noise_floor.baseline.units)) < MIN_PAIRS:
        raise UsageProblem(f"{noise_floor.name} has {count} pairs: a noise floor takes {MIN_PAIRS}")
    family, after = _family(noise_floor, primary)
    return {
        (found.pairs.case, found.pairs.metric, found.pairs.statistic): found
        for found in statistics.decide(family, practical, looks=noise_floor.looks, after=after)
        if found.outcome in ("better", "worse")
    }


def _unless_noise(found: Verdict, alarms: Mapping[_Figure, Verdict]) -> Verdict:
    alarm = alarms.get((found.pairs.case, found.pairs.metric, found.pairs.statistic))
    if alarm is None or found.outcome not in ("better", "worse"):
        return found
    by = alarm.reason if alarm.ratio is None else f"{alarm.ratio:.3f}"
    return replace(found, outcome="undecided", reason=f"the A/A differs too: {by}")
