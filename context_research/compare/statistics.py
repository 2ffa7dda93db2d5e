"""Paired statistics -> better, worse, equivalent or undecided. Method, sources, limits: docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from context_research.compare.multiplicity import adjust, any_look
from context_research.records.verdict import Outcome, PairsRecord

ALPHA = 0.05
"""The chance that an A/B has any false alarm among its verdicts; and again that it calls any figure equivalent that is
not."""
MIN_PAIRS = 6
"""With n pairs sign flips can't have a p under 2^(1−n): of 5 or fewer only an assumed distribution could decide."""
PRACTICAL = 0.03
"""Ratios between 1 / (1 + this) and 1 + this are equal for practical purposes."""
_POWER = 0.8
"""With which the pairs that an undecided verdict asks for would tell a practical difference."""
_HOPELESS = 1.25
"""A figure that would need so many times the pairs there can be is not waited for: what it would need is rough."""
_MOST_PAIRS = 10_000
"""More are never asked for."""
_RESAMPLES = 2**14
"""Sign flips: up to 14 pairs every one of the 2^n is tried, and p is exact."""

Floats = NDArray[np.float64]


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
    arm: str = "candidate"
    """Whose `candidate` is."""

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
    def changes(self) -> Floats:
        """Each complete pair's log ratio; candidate − baseline where not every ratio has a logarithm."""
        if self.have_ratios:
            return np.log([candidate / baseline for baseline, candidate in self.complete])
        return np.array([candidate - baseline for baseline, candidate in self.complete])

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
    `p` is that of "the arms are alike", `p_equivalent` that of "they differ by the practical margin or more", both by
    Student's t; each has its adjusted one, beside the rest of the family and all planned looks. `p_sign_flip` rests on
    no distribution, and adjusts nothing. What is adjusted, and `outcome`, are None outside a family. `fragile`: why a
    decision may not last. `pairs_needed`: how many would likely decide, given the noise and the ratio seen; None if
    not known.
    """

    pairs: Pairs
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    p_equivalent: float | None = None
    p_equivalent_adjusted: float | None = None
    p_sign_flip: float | None = None
    outcome: Outcome | None = None
    reason: str = ""
    fragile: str = ""
    pairs_needed: int | None = None
    difference: Difference | None = None
    asked: bool = True
    """False for a tail whose median is undecided: whether it differs was no question then."""

    def record(self) -> PairsRecord:
        """The pairs' fields beside the verdict's."""
        fields = asdict(self)
        del fields["difference"], fields["asked"]  # `reason` has them
        return PairsRecord(**fields.pop("pairs"), **fields)


def decide(
    family: Sequence[Pairs],
    practical: float = PRACTICAL,
    start_noise: float = 0.0,
    looks: Sequence[int] = (),
    after: Sequence[int | None] | None = None,
) -> list[Verdict]:
    """One verdict for each of `family`, the comparisons named before anything was measured.

    `start_noise`: by how much two starts of one engine differ, as a share; a difference within it is none. It is 0
    where each unit is an engine start of its own, as its spread then is in the pairs. `looks`: the numbers of pairs
    after which one could have stopped. `after[i]`: the comparison that has to be decided before comparison i is asked.
    """
    found = [describe(pairs, practical, start_noise) for pairs in family]
    # The family is what was named: a comparison that lacks values still counts in it.
    differ = adjust([1.0 if each.p is None else any_look(each.p, looks) for each in found], after)
    alike = adjust([1.0 if each.p_equivalent is None else any_look(each.p_equivalent, looks) for each in found], after)
    asked_at_once = len(family) if after is None else sum(each is None for each in after)
    judged: list[Verdict] = []
    for index, (each, p, p_equivalent) in enumerate(zip(found, differ, alike, strict=True)):
        first = None if after is None or (before := after[index]) is None else judged[before]
        each = replace(
            each,
            p_adjusted=None if each.p is None else p,
            p_equivalent_adjusted=None if each.p_equivalent is None else p_equivalent,
        )
        judged.append(_judged(each, first, asked_at_once, practical, start_noise))
    return judged


def settled(verdicts: Iterable[Verdict], most: int) -> bool:
    """Whether an A/B may end at a look: each figure is decided, or would need far more pairs than `most`."""
    return not any(_may_tell(each, most) for each in verdicts if each.outcome == "undecided")


def _may_tell(undecided: Verdict, most: int) -> bool:
    """Whether as many as `most` pairs may decide it. One without a value in a pair already never will be."""
    if len(undecided.pairs.complete) < len(undecided.pairs.baseline):
        return False
    return (undecided.pairs_needed or 0) <= _HOPELESS * most


def describe(pairs: Pairs, practical: float = PRACTICAL, start_noise: float = 0.0) -> Verdict:
    """Ratio, interval and p's, without an outcome: for metrics outside the family."""
    found = ratio_alone(pairs)
    if len(pairs.complete) < MIN_PAIRS:
        return found
    tested, flips = _test(pairs, practical, start_noise), float(sign_flip(pairs.changes))
    found = replace(found, p=tested.p, p_equivalent=tested.p_equivalent, p_sign_flip=flips)
    if found.difference is not None:
        return replace(found, difference=replace(found.difference, low=tested.low, high=tested.high))
    return replace(found, low=math.exp(tested.low), high=math.exp(tested.high))


def ratio_alone(pairs: Pairs, reason: str = "") -> Verdict:
    """The ratio, and of figures with a 0 the difference, without a word on chance: few pairs, or no measurement."""
    if not pairs.complete:
        return Verdict(pairs, reason=reason)
    change = float(pairs.changes.mean())
    if pairs.have_ratios:
        return Verdict(pairs, math.exp(change), reason=reason)
    baseline, candidate = pairs.means
    ratio = candidate / baseline if baseline > 0 <= candidate else None
    return Verdict(pairs, ratio, reason=reason, difference=Difference(change))


def _test(pairs: Pairs, practical: float, start_noise: float) -> _Tested:
    """Of log ratios; of differences where some ratio has no logarithm."""
    if pairs.have_ratios:
        margin = math.log1p(practical)
        return _Tested.of(pairs.changes, math.log1p(start_noise), -margin, margin)
    # A ratio within the margin either way: the candidate exceeds the baseline by no more than that share of it, and
    # the other way round.
    baseline, candidate = map(abs, pairs.means)
    noise = start_noise * max(baseline, candidate)
    return _Tested.of(pairs.changes, noise, -practical * candidate, practical * baseline)


@dataclass(frozen=True, slots=True)
class _Tested:
    """What Student's t says of the pairs' mean."""

    low: float
    high: float
    p: float
    """Two-sided, of a mean of 0."""
    p_equivalent: float
    """Of a mean outside the margins: the larger of two one-sided tests' (Schuirmann 1987)."""

    @classmethod
    def of(cls, values: Floats, noise: float, least: float, most: float) -> _Tested:
        """A mean within `noise` of 0 counts as 0; `least` and `most` are the margins of what counts as alike."""
        freedom, mean = len(values) - 1, float(values.mean())
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
        reach = float(special.stdtrit(freedom, 0.975)) * error + noise
        p = min(1.0, 2 * _beyond(abs(mean) - noise, error, freedom))
        inside = min(most - mean, mean - least) - noise
        no_pair_differs = noise == 0 and not values.any()  # and may have no margin: both arms serve nothing
        return cls(mean - reach, mean + reach, p, 0.0 if no_pair_differs else _beyond(inside, error, freedom))


def _beyond(distance: float, error: float, freedom: int) -> float:
    """The probability of a t as large as distance ÷ error; 0 or 1 where nothing scatters: a deterministic figure."""
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(special.stdtr(freedom, -distance / error))


def pairs_for(noise: float, difference: float, family: int, looks: Sequence[int] = ()) -> int:
    """Pairs that tell `difference` (a share) in 8 of 10 cases, where the pairs' log ratios scatter by `noise` (sd).

    For an effect alone in its family, whose p must then be under ALPHA ÷ family, less what `looks` cost: the power of
    Student's t, by the noncentral t. At most 10,000.
    """
    alpha = ALPHA / family
    alpha *= alpha / any_look(alpha, looks)
    # The normal distribution asks for a few less: a start for the search.
    z = float(special.ndtri(1 - alpha / 2) + special.ndtri(_POWER))
    pairs = max(MIN_PAIRS, min(_MOST_PAIRS, math.floor((z * noise / math.log1p(difference)) ** 2)))
    while pairs < _MOST_PAIRS and _power(pairs, noise, difference, alpha) < _POWER:
        pairs += 1
    return pairs


def _power(pairs: int, noise: float, difference: float, alpha: float) -> float:
    if noise == 0:
        return 1.0
    freedom, shift = pairs - 1, math.log1p(difference) * math.sqrt(pairs) / noise
    if shift > 30:  # beyond it scipy's noncentral t has no number
        return 1.0
    return 1 - float(special.nctdtr(freedom, shift, special.stdtrit(freedom, 1 - alpha / 2)))


def _judged(verdict: Verdict, first: Verdict | None, family: int, practical: float, start_noise: float) -> Verdict:
    """`first`: what had to be decided before this was asked."""
    outcome, reason = _outcome(verdict, family, practical)
    if outcome == "undecided" and first is not None and first.outcome == "undecided":
        reason = f"not asked, as {first.pairs.statistic} is undecided"
        verdict = replace(verdict, p_adjusted=None, p_equivalent_adjusted=None)
        return replace(verdict, outcome=outcome, reason=reason, asked=False)
    # No number of repeats tells what lies within the noise of a single start.
    needed = _needed(verdict.pairs, practical, family) if outcome == "undecided" and not start_noise else None
    fragile = "" if outcome == "undecided" else _fragile(verdict, practical, start_noise, outcome)
    return replace(verdict, outcome=outcome, reason=reason, fragile=fragile, pairs_needed=needed)


def _needed(pairs: Pairs, practical: float, family: int) -> int | None:
    """Pairs for a difference like the one seen, or the practical one if that is larger.

    None from a single pair, and where a value is 0.
    """
    if len(pairs.complete) < 2 or not pairs.have_ratios:
        return None
    seen = math.expm1(abs(float(pairs.changes.mean())))
    return pairs_for(float(pairs.changes.std(ddof=1)), max(seen, practical), family)


def _outcome(verdict: Verdict, family: int, practical: float) -> tuple[Outcome, str]:
    pairs = verdict.pairs
    count, asked = len(pairs.complete), len(pairs.baseline)
    if asked < MIN_PAIRS:
        return "undecided", f"{asked} {'pair' if asked == 1 else 'pairs'}: fewer than {MIN_PAIRS} decide nothing"
    differ, alike = verdict.p_adjusted, verdict.p_equivalent_adjusted
    if differ is None or alike is None or count < asked:
        # Those that have one may be the lucky ones.
        return (
            "undecided",
            f"no {pairs.statistic} in {asked - count} of {asked} pairs (too few samples, or no number)",
        )
    told = _by_differences(verdict)
    if alike <= ALPHA:
        return "equivalent", f"within {practical:.3g} either way{told}"
    if differ <= ALPHA:
        return ("better" if _lower(verdict) == pairs.lower_is_better else "worse"), told.removeprefix("; ")
    beside = f", beside {family} questions" if family > 1 else ""
    shown = f"neither a difference (p {differ:.2g}) nor within {practical:.3g} (p {alike:.2g})"
    return "undecided", f"{shown}{beside}{told}"


def _lower(verdict: Verdict) -> bool:
    """Whether the candidate's figure is the lower one."""
    if verdict.difference is not None:
        return verdict.difference.mean < 0
    return verdict.ratio is not None and verdict.ratio < 1


def _by_differences(verdict: Verdict) -> str:
    found = verdict.difference
    if found is None or found.low is None or found.high is None:
        return ""
    interval = f"{found.low:.3g} to {found.high:.3g}"
    return f"; by differences, as a 0 has no ratio: {found.mean:.3g} {verdict.pairs.unit} ({interval})"


def _fragile(verdict: Verdict, practical: float, start_noise: float, outcome: Outcome) -> str:
    """Why a decision may not last: sign flips don't show it, or it rests on a single pair."""
    told = []
    if outcome != "equivalent" and (flips := verdict.p_sign_flip) is not None and flips > ALPHA:
        told.append(f"sign flips alone don't show it (p {flips:.2g})")
    if outcome == "equivalent":
        p, adjusted = verdict.p_equivalent, verdict.p_equivalent_adjusted
    else:
        p, adjusted = verdict.p, verdict.p_adjusted
    # What correction costs is taken to stay the same: the other figures have not changed.
    price = adjusted / p if p and adjusted else 1.0
    needed = [
        number
        for number in range(1, len(verdict.pairs.baseline) + 1)
        if _p_without(verdict.pairs, number, practical, start_noise, outcome) * price > ALPHA
    ]
    if needed:
        few = ", ".join(map(str, needed))
        told.append(
            f"without pair {few} it would be undecided" if len(needed) == 1 else f"it needs each of pairs {few}"
        )
    return "; ".join(told)


def _p_without(pairs: Pairs, number: int, practical: float, start_noise: float, outcome: Outcome) -> float:
    """The p behind `outcome`, without one of the pairs, counted from 1."""
    kept = [values[: number - 1] + values[number:] for values in (pairs.baseline, pairs.candidate)]
    rest = _test(replace(pairs, baseline=kept[0], candidate=kept[1]), practical, start_noise)
    return rest.p_equivalent if outcome == "equivalent" else rest.p


def sign_flip(differences: Floats, resamples: int = _RESAMPLES) -> Floats:
    """Two-sided p of the pairs' mean under flipping each pair's arms (Fisher's randomization test).

    Pairs lie along the first axis; the result has the shape of the others. Up to log2(`resamples`) pairs every way is
    tried, and p is exact; above, random ones, and the one seen is counted (Phipson & Smyth 2010).
    """
    # scipy's permutation_test says the same and takes 50 times as long, which a map of 576 cells can't.
    count = len(differences)
    if 2**count <= resamples:
        signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (resamples, count))
        signs[0] = 1.0
    sums = np.abs(np.tensordot(signs, differences, axes=1))
    seen = np.abs(differences.sum(axis=0))
    return np.asarray((sums >= seen * (1 - 1e-12)).mean(axis=0), dtype=float)
