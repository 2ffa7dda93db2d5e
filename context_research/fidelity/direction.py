"""Does a simulation tell which serving mode is faster as real engines do, where those tell it at all?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from context_research.compare.ab import sessions as ab
from context_research.compare.comparison import Comparison
from context_research.compare.family import PRIMARY
from context_research.compare.observations import Arm
from context_research.compare.statistics import PRACTICAL
from context_research.compare.verdict import START_NOISE
from context_research.measure import metrics
from context_research.measure.metrics import METRICS, Metric
from context_research.records import store
from context_research.records.fidelity import Direction, SignRecord
from context_research.records.files import AbFiles
from context_research.records.verdict import PairsRecord, VerdictRecord

JUDGED = tuple(metric for metric in METRICS if metric.name in PRIMARY)
ENOUGH_RUNS = 4
"""Runs of either mode from which ranges that lie apart are no chance: 2 of C(8, 4) = 70 orders, p = 0.029."""

_LOWER_IS_BETTER: dict[str | None, Direction] = {"better": "lower", "worse": "higher", "equivalent": "equivalent"}
"""A verdict's outcome -> what it says of latencies."""


def of_ab(
    files: AbFiles, comparison: Comparison, real: tuple[Arm, Arm], simulated: tuple[Arm, Arm]
) -> list[SignRecord]:
    """By the A/B's own verdicts: verdict.json, or judged now if there is none of these sessions."""
    judged, how = _verdicts(files, comparison)
    primary, others = _p50s(judged.primary), _p50s(judged.descriptive)
    if comparison.planned and len(comparison.baseline.units) < comparison.planned:
        how += f", not final: {len(comparison.baseline.units)} of {comparison.planned} pairs"
    signs = []
    for case, metric, ratio, again in _ratios(real, simulated):
        verdict = primary.get((case, metric.name))
        outcome = "not judged" if verdict is None else _LOWER_IS_BETTER.get(verdict.outcome, "undecided")
        described = verdict or others.get((case, metric.name))
        by_pairs = (described.ratio if described else None) or ratio
        signs.append(_sign(case, metric, real, by_pairs, again, outcome, how, judged.practical))
    return signs


def _verdicts(files: AbFiles, comparison: Comparison) -> tuple[VerdictRecord, str]:
    if files.verdict.is_file():
        kept = store.read(files.verdict, VerdictRecord)
        sides = zip(kept.sides, comparison.sides, strict=False)
        if all(list(kept_side.runs) == [run.files.run_id for run in side.runs] for kept_side, side in sides):
            return kept, "verdict.json"
    return ab.judge(files).record(), "judged now"


def _p50s(figures: Sequence[PairsRecord]) -> dict[tuple[str, str], PairsRecord]:
    """(case, metric) -> what its pairs of p50s say."""
    return {(figure.case, figure.metric): figure for figure in figures if figure.statistic == "p50"}


def of_runs(real: tuple[Arm, Arm], simulated: tuple[Arm, Arm]) -> list[SignRecord]:
    """By how far the real ones spread: decided where every unit of one mode is below every one of the other.

    Units are runs if either mode has two or more, else repeats. Under ENOUGH_RUNS of either mode such ranges may lie
    apart by chance, as two starts of one engine do: START_NOISE must then lie between them. No test, a rule of thumb.
    """
    signs = []
    for case, metric, ratio, again in _ratios(real, simulated):
        outcome, how = _apart(case, metric, real)
        signs.append(_sign(case, metric, real, ratio, again, outcome, how))
    return signs


def _sign(
    case: str,
    metric: Metric,
    arms: tuple[Arm, Arm],
    real: float | None,
    simulated: float | None,
    outcome: Direction,
    how: str,
    practical: float = PRACTICAL,
) -> SignRecord:
    """Candidate ÷ baseline, real and simulated; `outcome` is what the real ones say, which rests on `how`."""
    return SignRecord(
        case=case,
        metric=metric.name,
        baseline=arms[0].label,
        candidate=arms[1].label,
        real=real,
        simulated=simulated,
        outcome=outcome,
        how=how,
        practical=practical,
        same_sign=_same_sign(real, simulated),
        agrees=_agrees(outcome, simulated, practical),
    )


def _same_sign(real: float | None, simulated: float | None) -> bool | None:
    """Whether candidate − baseline has one sign, real and simulated; None where one has no value."""
    if real is None or simulated is None:
        return None
    return (real > 1) == (simulated > 1) and (real < 1) == (simulated < 1)


def _agrees(outcome: Direction, simulated: float | None, practical: float) -> bool | None:
    """Whether the simulation says what the real ones do; None where those decide nothing."""
    if simulated is None or outcome in ("undecided", "not judged"):
        return None
    if outcome == "equivalent":
        return 1 / (1 + practical) < simulated < 1 + practical
    return simulated < 1 if outcome == "lower" else simulated > 1


def _apart(case: str, metric: Metric, real: tuple[Arm, Arm]) -> tuple[Direction, str]:
    count = min(sum(case in unit for unit in arm.units) for arm in real)
    noise = 0.0 if count >= ENOUGH_RUNS else START_NOISE
    units = "runs" if count > 1 else "repeats"
    sides = []
    for arm in real:
        runs = [unit[case] for unit in arm.units if case in unit]
        each = runs if count > 1 else [[repeat] for repeats in runs for repeat in repeats]
        sides.append([metrics.pooled(metric, repeats).p50 for repeats in each])
    how = f"p50s of {len(sides[0])} and {len(sides[1])} {units}"
    baseline, candidate = ([value for value in side if value is not None] for side in sides)
    if not baseline or not candidate or None in (*sides[0], *sides[1]):
        return "undecided", f"{how}: too few samples for some"
    how += f", {noise:.0%} between them asked for" if noise else ""
    if max(candidate) * (1 + noise) < min(baseline):
        return "lower", how
    if min(candidate) > max(baseline) * (1 + noise):
        return "higher", how
    return "undecided", how


def _ratios(real: tuple[Arm, Arm], simulated: tuple[Arm, Arm]) -> list[tuple[str, Metric, float | None, float | None]]:
    """(case, metric, candidate ÷ baseline of all samples' p50, the same simulated) of the cases that both arms have."""
    shared = [case for case in real[0].cases if case in real[1].cases]
    return [
        (case, metric, _ratio(real, case, metric), _ratio(simulated, case, metric))
        for metric in JUDGED
        for case in shared
    ]


def _ratio(arms: tuple[Arm, Arm], case: str, metric: Metric) -> float | None:
    before, after = (metrics.pooled(metric, arm.repeats(case)).p50 for arm in arms)
    return after / before if before and after is not None else None


def counted(signs: Sequence[SignRecord]) -> Mapping[str, int]:
    """How many were decided by the real ones, and of those how many the simulation tells as they do."""
    decided = [sign for sign in signs if sign.agrees is not None]
    return {
        "decided": len(decided),
        "agree": sum(bool(sign.agrees) for sign in decided),
        "undecided": len(signs) - len(decided),
    }
