"""Does a simulation tell which serving mode is faster as real engines do, where those tell it at all?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from context_research.compare.ab import sessions as ab
from context_research.compare.comparison import Comparison
from context_research.compare.observations import Arm
from context_research.compare.statistics import PRACTICAL
from context_research.compare.verdict import START_NOISE
from context_research.measure import metrics
from context_research.measure.metrics import METRICS, Repeat
from context_research.records import store
from context_research.records.case import Distribution
from context_research.records.fidelity import SignRecord
from context_research.records.files import AbFiles
from context_research.records.verdict import PairsRecord, VerdictRecord

JUDGED = tuple(metric for metric in METRICS if metric.name in ("ttft", "tpot"))
ENOUGH_RUNS = 4
"""Runs of either mode from which ranges that lie apart are no chance: 2 of C(8, 4) = 70 orders, p = 0.029."""

Outcome = Literal["lower", "higher", "equivalent", "undecided", "not judged"]


@dataclass(frozen=True, slots=True)
class Sign:
    """One metric of one case: candidate ÷ baseline of the p50s, real and simulated; lower is better."""

    case: str
    metric: str
    baseline: str
    candidate: str
    real: float | None
    simulated: float | None
    outcome: Outcome
    """What the real ones say of the candidate."""
    how: str
    """What that rests on."""
    practical: float = PRACTICAL

    @property
    def same_sign(self) -> bool | None:
        """Whether candidate − baseline has one sign, real and simulated; None where one has no value."""
        if self.real is None or self.simulated is None:
            return None
        return (self.real > 1) == (self.simulated > 1) and (self.real < 1) == (self.simulated < 1)

    @property
    def agrees(self) -> bool | None:
        """Whether the simulation says what the real ones do; None where those decide nothing."""
        if self.simulated is None or self.outcome in ("undecided", "not judged"):
            return None
        if self.outcome == "equivalent":
            return 1 / (1 + self.practical) < self.simulated < 1 + self.practical
        return self.simulated < 1 if self.outcome == "lower" else self.simulated > 1

    def record(self) -> SignRecord:
        return SignRecord(**asdict(self), same_sign=self.same_sign, agrees=self.agrees)


def of_ab(files: AbFiles, comparison: Comparison, real: tuple[Arm, Arm], simulated: tuple[Arm, Arm]) -> list[Sign]:
    """By the A/B's own verdicts: verdict.json, or judged now if there is none of these sessions."""
    judged, how = _verdicts(files, comparison)
    primary, others = _by_figure(judged.primary), _by_figure(judged.descriptive)
    if comparison.planned and len(comparison.baseline.units) < comparison.planned:
        how += f", not final: {len(comparison.baseline.units)} of {comparison.planned} pairs"
    found = []
    for case, metric, ratio, again in _ratios(real, simulated):
        verdict = primary.get((case, metric))
        told: Outcome = "not judged"
        if verdict is not None:
            words: dict[str, Outcome] = {"better": "lower", "worse": "higher", "equivalent": "equivalent"}
            told = words.get(str(verdict.outcome), "undecided")
        own = verdict or others.get((case, metric))
        labels = (real[0].label, real[1].label)
        known = (own.ratio if own else None) or ratio
        found.append(Sign(case, metric, *labels, known, again, told, how, judged.practical))
    return found


def _verdicts(files: AbFiles, comparison: Comparison) -> tuple[VerdictRecord, str]:
    if files.verdict.is_file():
        kept = store.read(files.verdict, VerdictRecord)
        sides = ((kept.baseline, comparison.baseline), (kept.candidate, comparison.candidate))
        if all(list(kept_side.runs) == [run.files.run_id for run in side.runs] for kept_side, side in sides):
            return kept, "verdict.json"
    return ab.judge(files).record(), "judged now"


def _by_figure(figures: Sequence[PairsRecord]) -> dict[tuple[str, str], PairsRecord]:
    """(case, metric) -> what was said of its p50."""
    return {(one.case, one.metric): one for one in figures if one.statistic == "p50"}


def of_runs(real: tuple[Arm, Arm], simulated: tuple[Arm, Arm]) -> list[Sign]:
    """By how far the real ones spread: decided where every unit of one mode is below every one of the other.

    Units are runs if either mode has two or more, else repeats. Under ENOUGH_RUNS of either mode such ranges may lie
    apart by chance, as two starts of one engine do: START_NOISE must then lie between them. No test, a rule of thumb.
    """
    found = []
    for case, metric, ratio, again in _ratios(real, simulated):
        outcome, how = _apart(case, metric, real)
        found.append(Sign(case, metric, real[0].label, real[1].label, ratio, again, outcome, how))
    return found


def _apart(case: str, metric: str, real: tuple[Arm, Arm]) -> tuple[Outcome, str]:
    count = min(sum(case in unit for unit in arm.units) for arm in real)
    noise = 0.0 if count >= ENOUGH_RUNS else START_NOISE
    of_runs = count > 1
    values = []
    for arm in real:
        units = [unit[case] for unit in arm.units if case in unit]
        own = units if of_runs else [[repeat] for unit in units for repeat in unit]
        values.append([p50(metric, repeats) for repeats in own])
    told = f"p50s of {len(values[0])} and {len(values[1])} {'runs' if of_runs else 'repeats'}"
    known = [[value for value in side if value is not None] for side in values]
    if any(len(some) < len(side) or not side for some, side in zip(known, values, strict=True)):
        return "undecided", f"{told}: too few samples for some"
    told += f", {noise:.0%} between them asked for" if noise else ""
    (low, high), (own_low, own_high) = ((min(side), max(side)) for side in known)
    if own_high * (1 + noise) < low:
        return "lower", told
    if own_low > high * (1 + noise):
        return "higher", told
    return "undecided", told


def summarized(metric: str, repeats: list[Repeat]) -> Distribution:
    """One metric of JUDGED over all samples of `repeats` together, as `metrics.summarize` has it."""
    (own,) = (one for one in JUDGED if one.name == metric)
    return metrics.summarize([value for repeat in repeats for value in own.samples(repeat)], own.unit)


def p50(metric: str, repeats: list[Repeat]) -> float | None:
    """In seconds; None of too few samples."""
    return summarized(metric, repeats).p50


def _ratios(real: tuple[Arm, Arm], simulated: tuple[Arm, Arm]) -> list[tuple[str, str, float | None, float | None]]:
    """(case, metric, candidate ÷ baseline of all samples' p50, the same simulated) of the cases that both arms have."""
    shared = [case for case in real[0].cases if case in real[1].cases]
    return [
        (case, metric.name, _ratio(real, case, metric.name), _ratio(simulated, case, metric.name))
        for metric in JUDGED
        for case in shared
    ]


def _ratio(arms: tuple[Arm, Arm], case: str, metric: str) -> float | None:
    before, after = (p50(metric, arm.repeats(case)) for arm in arms)
    return after / before if before and after is not None else None


def counted(signs: list[Sign]) -> Mapping[str, int]:
    """How many were decided by the real ones, and of those how many the simulation tells as they do."""
    decided = [sign for sign in signs if sign.agrees is not None]
    return {
        "decided": len(decided),
        "agree": sum(bool(sign.agrees) for sign in decided),
        "undecided": len(signs) - len(decided),
    }
