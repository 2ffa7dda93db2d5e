"""Paired statistics -> better, worse, equivalent or undecided. Method, sources, limits: docs/statistics.md."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from context_research.records.verdict import Outcome, PairsRecord

ALPHA = 0.05
"""Share of false alarms allowed: of a single test, and by Benjamini-Hochberg of the alarms in a family."""
MIN_PAIRS = 6
"""With n pairs the sign-flip test's p can't be under 2^(1−n): 5 pairs never reach 0.05."""
PRACTICAL = 0.03
"""Ratios between 1 / (1 + this) and 1 + this are equal for practical purposes."""
_POWER = 0.8
"""With which the pairs that an undecided verdict asks for would tell a practical difference."""
_RESAMPLES = 2**14
"""Bootstrap resamples, and sign flips: up to 14 pairs every one of the 2^n is tried, and p is exact."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """One metric of one case: `baseline[i]` and `candidate[i]` are of the same seed; None where a unit has no value.

    A unit is what is repeated: an engine start's whole session, or a repeat within it. `statistic` is what stands for
    it: `p50`, `p90`, … or `mean`.
    """

    case: str
    metric: str
    statistic: str
    unit: str
    lower_is_better: bool
    baseline: tuple[float | None, ...]
    candidate: tuple[float | None, ...]

    @property
    def complete(self) -> list[tuple[float, float]]:
        """The pairs of which both have a value."""
        pairs = zip(self.baseline, self.candidate, strict=True)
        return [(b, c) for b, c in pairs if b is not None and c is not None and math.isfinite(b) and math.isfinite(c)]

    @property
    def have_ratios(self) -> bool:
        """Whether each complete pair's ratio has a logarithm: goodput is 0 where an arm misses its limits."""
        return all(b > 0 and c > 0 for b, c in self.complete)

    @property
    def means(self) -> tuple[float, float]:
        """The arithmetic ones, of complete pairs."""
        baseline, candidate = np.mean(self.complete, axis=0)
        return float(baseline), float(candidate)


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate − baseline, the mean over the pairs, with its 95 % interval; None with too few pairs."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pairs say. `ratio` is candidate / baseline (geometric mean), [`low`, `high`] its 95 % interval.

    Where a value is 0 `difference` is judged: `ratio` is then the means' (None: a baseline of 0), without an interval.
    `p` is the sign-flip test's, `p_adjusted` after Benjamini-Hochberg over the family; None outside a family, as is
    `outcome`. `pairs_needed`: how many would likely decide, given the noise and the ratio seen; None if not known.
    """

    pairs: Pairs
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    outcome: Outcome | None = None
    reason: str = ""
    pairs_needed: int | None = None
    difference: Difference | None = None

    def record(self) -> PairsRecord:
        """The pairs' fields beside the verdict's."""
        fields = asdict(self)
        del fields["difference"]  # `reason` has it
        return PairsRecord(**fields.pop("pairs"), **fields)


def decide(family: Sequence[Pairs], practical: float = PRACTICAL, start_noise: float = 0.0) -> list[Verdict]:
    """One verdict for each of `family`, the comparisons named before anything was measured.

    `start_noise`: by how much two starts of one engine differ, as a share; intervals are widened by it. It is 0 where
    each unit is an engine start of its own, as its spread then is in the pairs.
    """
    found = [describe(pairs, start_noise) for pairs in family]
    if not found:
        return []
    # The family is what was named: a comparison that lacks values still counts in it.
    adjusted = stats.false_discovery_control([1.0 if verdict.p is None else verdict.p for verdict in found])
    return [
        _judged(verdict, float(p), len(found), practical, start_noise)
        for verdict, p in zip(found, adjusted, strict=True)
    ]


def describe(pairs: Pairs, start_noise: float = 0.0) -> Verdict:
    """Ratio, interval and p, without an outcome: for metrics outside the family."""
    values = pairs.complete
    if not values:
        return Verdict(pairs)
    if not pairs.have_ratios:
        return _by_difference(pairs, start_noise)
    logs = np.log([candidate / baseline for baseline, candidate in values])
    ratio = float(np.exp(logs.mean()))
    if len(values) < MIN_PAIRS:
        return Verdict(pairs, ratio)
    low, high = (float(np.exp(bound)) for bound in _interval(logs))
    return Verdict(pairs, ratio, low / (1 + start_noise), high * (1 + start_noise), float(sign_flip(logs)))


def _by_difference(pairs: Pairs, start_noise: float) -> Verdict:
    """The same where some ratio has no logarithm. Which arm a 0 is in does not decide that: p stays exact."""
    differences = np.array([candidate - baseline for baseline, candidate in pairs.complete])
    baseline, candidate = pairs.means
    ratio, mean = candidate / baseline if baseline > 0 <= candidate else None, float(differences.mean())
    if len(differences) < MIN_PAIRS:
        return Verdict(pairs, ratio, difference=Difference(mean))
    low, high = _interval(differences)
    noise = start_noise * max(abs(baseline), abs(candidate))
    return Verdict(
        pairs, ratio, p=float(sign_flip(differences)), difference=Difference(mean, low - noise, high + noise)
    )


def pairs_to_decide_alone(family: int) -> int:
    """The fewest pairs with which one effect alone, in a family of so many, can be told: family × 2^(1−n) ≤ 0.05."""
    return max(MIN_PAIRS, math.ceil(1 + math.log2(family / ALPHA)))


def pairs_for(noise: float, difference: float, family: int) -> int:
    """Pairs that tell `difference` (a share) in 8 of 10 cases, where the pairs' log ratios scatter by `noise` (sd).

    For an effect alone in its family, whose p must then be under ALPHA ÷ family; normal approximation.
    """
    z = stats.norm.ppf(1 - ALPHA / family / 2) + stats.norm.ppf(_POWER)
    return max(pairs_to_decide_alone(family), math.ceil((float(z) * noise / math.log1p(difference)) ** 2))


def _judged(verdict: Verdict, adjusted: float, family: int, practical: float, start_noise: float) -> Verdict:
    outcome, reason = _outcome(verdict, adjusted, family, practical)
    # No number of repeats tells what lies within the noise of a single start.
    needed = _needed(verdict.pairs, practical, family) if outcome == "undecided" and not start_noise else None
    p_adjusted = None if verdict.p is None else adjusted
    return replace(verdict, p_adjusted=p_adjusted, outcome=outcome, reason=reason, pairs_needed=needed)


def _needed(pairs: Pairs, practical: float, family: int) -> int | None:
    """Pairs for a difference like the one seen, or the practical one if that is larger.

    None from a single pair, and where a value is 0.
    """
    logs = [math.log(candidate / baseline) for baseline, candidate in pairs.complete] if pairs.have_ratios else []
    if len(logs) < 2:
        return None
    seen = math.expm1(abs(float(np.mean(logs))))
    return pairs_for(float(np.std(logs, ddof=1)), max(seen, practical), family)


def _outcome(verdict: Verdict, adjusted: float, family: int, practical: float) -> tuple[Outcome, str]:
    count, asked = len(verdict.pairs.complete), len(verdict.pairs.baseline)
    if asked < MIN_PAIRS:
        return "undecided", f"{asked} {'pair' if asked == 1 else 'pairs'}: fewer than {MIN_PAIRS} decide nothing"
    if (found := _judged_by(verdict, practical)) is None or count < asked:
        # Those that have one may be the lucky ones.
        return (
            "undecided",
            f"no {verdict.pairs.statistic} in {asked - count} of {asked} pairs (too few samples, or no number)",
        )
    if found.least < found.low and found.high < found.most:
        return "equivalent", f"the interval is within {practical:.3g} either way{found.told}"
    if found.low == found.high == found.alike == 0:
        return "equivalent", f"no pair differs{found.told}"
    if found.low <= found.alike <= found.high:
        return "undecided", f"the interval holds {found.alike:g}, and more than a practical difference{found.told}"
    if adjusted > ALPHA:
        if family * 2.0 ** (1 - count) > ALPHA:
            return "undecided", (
                f"undecidable with {count} pairs: alone in a family of {family} an effect needs "
                f"{pairs_to_decide_alone(family)}"
            )
        return "undecided", f"p is {adjusted:.2g}" + (
            f" after correction for a family of {family}" if family > 1 else ""
        )
    better = (found.high < found.alike) == verdict.pairs.lower_is_better
    return ("better" if better else "worse"), found.told.removeprefix("; ")


@dataclass(frozen=True, slots=True)
class _Judged:
    """An interval, what it is where the arms are `alike`, and between what it is where that is so for all practice."""

    low: float
    high: float
    alike: float
    least: float
    most: float
    told: str = ""


def _judged_by(verdict: Verdict, practical: float) -> _Judged | None:
    """The ratio, or the difference where there is a 0; None without an interval."""
    if verdict.low is not None and verdict.high is not None:
        return _Judged(verdict.low, verdict.high, 1, 1 / (1 + practical), 1 + practical)
    found = verdict.difference
    if found is None or found.low is None or found.high is None:
        return None
    # A ratio within the margin either way: the candidate exceeds the baseline by no more than that share of it, and
    # the other way round.
    baseline, candidate = map(abs, verdict.pairs.means)
    unit = verdict.pairs.unit
    told = f"; by differences, as a 0 has no ratio: {found.mean:.3g} {unit} ({found.low:.3g} to {found.high:.3g})"
    return _Judged(found.low, found.high, 0, -practical * candidate, practical * baseline, told)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % BCa bootstrap interval of their mean (Efron 1987)."""
    if np.ptp(values) == 0:  # nothing to resample: a deterministic backend
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate data, and numpy's division by it
        for method in ("BCa", "percentile"):  # BCa has no answer where nearly all pairs are alike
            found = stats.bootstrap(
                (values,),
                np.mean,
                confidence_level=1 - ALPHA,
                n_resamples=_RESAMPLES,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
            if np.isfinite([found.low, found.high]).all():
                break
    return float(found.low), float(found.high)


def sign_flip(differences: NDArray[np.float64], resamples: int = _RESAMPLES) -> NDArray[np.float64]:
    """Two-sided p of the pairs' mean under flipping each pair's arms (Fisher's randomization test).

    Pairs lie along the first axis; the result has the shape of the others. Up to log2(`resamples`) pairs it is exact.
    """
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        axis=0,
        n_resamples=resamples,
        batch=256,  # flips held in memory at a time: a map's are of hundreds of columns each
        rng=np.random.default_rng(0),
    )
    return np.asarray(found.pvalue, dtype=float)
