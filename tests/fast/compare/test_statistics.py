import json
import math

import numpy as np
import pytest
from scipy import stats

from context_research.compare.statistics import (
    ALPHA,
    Pairs,
    decide,
    describe,
    pairs_for,
    ratio_alone,
    settled,
    sign_flip,
)

SLOWER = (1.10, 1.12, 1.08, 1.11, 1.09, 1.10, 1.12, 1.08, 1.11, 1.09)
"""Consistent: sign flips give n of them a p of 2^(1−n)."""
LEVEL = (1.2, 1 / 1.2) * 5
"""An even number of them shows no difference at all."""


def paired(ratios, *, baseline=None, lower_is_better=True, **values):
    """Pairs of these ratios; None is a candidate without a value."""
    base = tuple(baseline or (0.25 + 0.01 * index for index in range(len(ratios))))
    candidate = tuple(None if ratio is None else b * ratio for b, ratio in zip(base, ratios, strict=True))
    names = {"case": "p64-c1", "metric": "ttft", "statistic": "p50", "unit": "session"} | values
    return Pairs(**names, lower_is_better=lower_is_better, baseline=base, candidate=candidate)


def alone(ratios, practical=0.03, start_noise=0.0, **values):
    (verdict,) = decide([paired(ratios, **values)], practical, start_noise)
    return verdict


def logs_to_ratios(*logs):
    return [math.exp(log) for log in logs]


def simulated(generator, pairs, noise=0.05, effect=1.0):
    """Both arms with the same lognormal noise, and a factor that a pair's runs share."""
    common = np.exp(generator.normal(0, 0.3, pairs))
    baseline, candidate = (common * np.exp(generator.normal(0, noise, pairs)) for _ in range(2))
    return Pairs(
        "p64-c1", "ttft", "p50", "session", True, tuple(baseline.tolist()), tuple((effect * candidate).tolist())
    )


# p and the ratio


@pytest.mark.parametrize(
    ("signs", "p"),
    [
        pytest.param("++++++", 2 / 64, id="all-one-way"),
        pytest.param("------", 2 / 64, id="all-the-other-way"),
        pytest.param("+++++-", 2 * (1 + 6) / 64, id="one-of-6-against"),
        pytest.param("+++-++++++", 2 * (1 + 10) / 1024, id="one-of-10-against"),
        pytest.param("+++-+++-++", 2 * (1 + 10 + 45) / 1024, id="two-of-10-against"),
        pytest.param("+++-++--++", 2 * (1 + 10 + 45 + 120) / 1024, id="three-of-10-against"),
    ],
)
def test_the_sign_flips_p_is_the_share_of_flips_at_least_as_extreme(signs, p):
    ratios = logs_to_ratios(*(0.1 if sign == "+" else -0.1 for sign in signs))
    assert describe(paired(ratios)).p_sign_flip == pytest.approx(p)


@pytest.mark.parametrize("pairs", [6, 10, 12])
def test_p_of_each_column_is_its_p_alone(pairs):
    """A verdict tests one list of pairs, a goodput map hundreds at once: the same test."""
    columns = np.random.default_rng(pairs).normal(0.3, 1.0, (pairs, 5))
    assert sign_flip(columns, 2**10).tolist() == [float(sign_flip(column, 2**10)) for column in columns.T]


def test_sign_flips_are_never_certain_where_not_every_flip_is_tried():
    p = describe(paired(SLOWER * 2)).p_sign_flip
    assert 0 < p < 0.001


@pytest.mark.parametrize("pairs", [6, 9, 14])
def test_sign_flips_are_scipys_permutation_test(pairs):
    values = np.random.default_rng(pairs).normal(0.3, 1.0, pairs)
    found = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert float(sign_flip(values)) == pytest.approx(found.pvalue)


@pytest.mark.parametrize("ratios", [SLOWER, LEVEL, SLOWER[:6]], ids=["slower", "level", "six"])
def test_p_and_the_interval_are_student_s(ratios):
    found, logs = describe(paired(ratios)), np.log(ratios)
    by_scipy = stats.ttest_1samp(logs, 0)
    assert found.p == pytest.approx(by_scipy.pvalue)
    assert np.log([found.low, found.high]) == pytest.approx(list(by_scipy.confidence_interval(0.95)))


@pytest.mark.parametrize("ratios", [(1.01, 0.99, 1.01, 0.99, 1.0, 1.0), SLOWER], ids=["within", "beyond"])
def test_equivalence_is_two_one_sided_tests(ratios):
    logs, margin = np.log(ratios), math.log(1.03)
    below = stats.ttest_1samp(logs, margin, alternative="less").pvalue
    above = stats.ttest_1samp(logs, -margin, alternative="greater").pvalue
    assert describe(paired(ratios), 0.03).p_equivalent == pytest.approx(max(below, above))


def test_ratio_is_the_geometric_mean():
    assert describe(paired([2.0, 0.5, 4.0, 0.25, 2.0, 2.0])).ratio == pytest.approx(4 ** (1 / 6))


def test_interval_holds_the_ratio_and_lies_within_the_pairs():
    verdict = describe(paired(SLOWER))
    assert min(SLOWER) < verdict.low < verdict.ratio < verdict.high < max(SLOWER)


def test_describing_gives_no_outcome():
    verdict = describe(paired(SLOWER))
    assert (verdict.outcome, verdict.p_adjusted, verdict.pairs_needed, verdict.reason) == (None, None, None, "")


# Outcomes of one comparison


def test_six_consistent_pairs_alone_decide():
    verdict = alone(SLOWER[:6])
    assert verdict.outcome == "worse"
    assert verdict.p == verdict.p_adjusted < 0.001
    assert verdict.p_sign_flip == pytest.approx(2**-5)
    assert (verdict.reason, verdict.fragile, verdict.pairs_needed) == ("", "", None)


@pytest.mark.parametrize(
    ("ratio", "lower_is_better", "outcome"),
    [(1.1, True, "worse"), (0.9, True, "better"), (1.1, False, "better"), (0.9, False, "worse")],
)
def test_direction(ratio, lower_is_better, outcome):
    ratios = [ratio * jitter for jitter in (0.99, 1, 1.01, 0.99, 1, 1.01)]
    assert alone(ratios, lower_is_better=lower_is_better).outcome == outcome


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_five_pairs_decide_nothing(ratio):
    verdict = alone([ratio] * 5)
    assert (verdict.outcome, verdict.pairs_needed) == ("undecided", 6)
    assert verdict.reason == "5 pairs: fewer than 6 decide nothing"
    assert verdict.ratio == pytest.approx(ratio)
    assert verdict.p is verdict.p_adjusted is verdict.low is verdict.high is None


def test_five_noisy_pairs_say_how_many_it_takes():
    verdict = alone(logs_to_ratios(-0.1, -0.1, 0, 0.1, 0.1))  # an sd of 0.1
    assert verdict.pairs_needed == 92 == pairs_for(0.1, 0.03, 1)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(("seen", "needed"), [(0.0, 92), (0.02, 92), (0.06, 24), (0.2, 6)])
def test_pairs_needed_go_by_the_larger_of_the_difference_seen_and_the_practical_one(seen, needed, direction):
    """(2.8016 × 0.1 / 0.06)² = 21.8 by the normal distribution, two more by Student's; 0.02 is less than ln 1.03."""
    verdict = alone(logs_to_ratios(*(direction * (seen + 0.1 * each) for each in (-1, -1, 0, 1, 1))))
    assert verdict.pairs_needed == needed


def test_one_pair_has_no_noise_to_go_by():
    verdict = alone([2.0])
    assert (verdict.outcome, verdict.pairs_needed) == ("undecided", None)
    assert verdict.reason == "1 pair: fewer than 6 decide nothing"


@pytest.mark.parametrize(
    ("ratios", "practical", "outcome"),
    [
        pytest.param((1.01, 0.99, 1.01, 0.99, 1.0, 1.0), 0.03, "equivalent", id="within-3-percent"),
        pytest.param((1.01, 0.99, 1.01, 0.99, 1.0, 1.0), 0.005, "undecided", id="not-within-half-a-percent"),
        pytest.param((1.08, 0.93, 1.08, 0.93, 1.0, 1.0), 0.03, "undecided", id="not-within-3-percent"),
        pytest.param((1.08, 0.93, 1.08, 0.93, 1.0, 1.0), 0.10, "equivalent", id="within-10-percent"),
        pytest.param((1.011, 1.009, 1.01, 1.012, 1.008, 1.01), 0.03, "equivalent", id="consistent-but-too-small"),
        pytest.param((1.011, 1.009, 1.01, 1.012, 1.008, 1.01), 0.0, "worse", id="small-but-no-margin"),
    ],
)
def test_equivalent_comes_first(ratios, practical, outcome):
    assert alone(ratios, practical).outcome == outcome


def test_an_interval_that_holds_1_and_more_is_undecided():
    verdict = alone(LEVEL)
    assert verdict.low < 1 < verdict.high
    assert (verdict.outcome, verdict.reason) == ("undecided", "neither a difference (p 1) nor within 0.03 (p 0.32)")
    assert verdict.pairs_needed == pairs_for(float(np.std(np.log(LEVEL), ddof=1)), 0.03, 1)


# Decisions that may not last


def test_what_sign_flips_do_not_show_is_fragile():
    """4 of the 64 flips are as extreme: the small one's sign doesn't matter."""
    verdict = alone(logs_to_ratios(0.1, 0.1, 0.1, 0.1, 0.1, -0.01))
    assert verdict.p_sign_flip == pytest.approx(4 / 64)
    assert verdict.outcome == "worse"
    assert verdict.fragile == "sign flips alone don't show it (p 0.062)"


def test_what_rests_on_single_pairs_is_fragile():
    verdict = alone(logs_to_ratios(0.0, 0.11, 0.1, 0.09, 0.12, 0.0), practical=0.0)
    assert verdict.outcome == "worse"
    assert "it needs each of pairs 2, 3, 4, 5" in verdict.fragile


def test_an_odd_pair_hides_a_difference_and_makes_none():
    assert alone([*SLOWER[:5], 2.0]).outcome == "undecided"
    assert alone([1.0, 1.01, 0.99, 1.0, 1.0, 2.0]).outcome == "undecided"


# Values that are missing or all alike


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_one_pair_without_a_value_leaves_it_undecided(missing):
    """Those that have one may be the lucky ones."""
    verdict = alone([missing, *SLOWER[:6]])
    assert verdict.outcome == "undecided"
    assert verdict.p_adjusted < 0.05
    assert verdict.reason.startswith("no p50 in 1 of 7 pairs")


def test_a_comparison_without_values_still_counts_in_its_family():
    slower, without = paired(SLOWER[:6]), paired([None] * 6)
    assert [verdict.p_adjusted for verdict in decide([slower, without])] == [
        pytest.approx(2 * alone(SLOWER[:6]).p),
        None,
    ]


def test_the_margin_is_the_same_whichever_arm_is_the_baseline():
    nearly = [1.0295, 1.0298, 1.0299, 1.0297, 1.0296, 1.0298]
    for ratios in (nearly, [1 / ratio for ratio in nearly]):
        assert alone(ratios).outcome == "equivalent"


def test_no_number_of_repeats_tells_what_a_start_hides():
    (verdict,) = decide([paired([1.05, 1.06, 1.04, 1.05, 1.06, 1.05])], start_noise=0.1)
    assert (verdict.outcome, verdict.pairs_needed) == ("undecided", None)


def test_too_few_values_are_undecided():
    verdict = alone([*SLOWER[:5], None])
    assert (verdict.outcome, verdict.p) == ("undecided", None)
    assert verdict.reason.startswith("no p50 in 1 of 6 pairs")


# A value of 0: no ratio has a logarithm, and it is a value all the same


def goodput(baseline, candidate, practical=0.03, start_noise=0.0, **values):
    names = {"case": "p64-c1", "metric": "goodput", "statistic": "mean", "unit": "1/s", "lower_is_better": False}
    pairs = Pairs(**(names | values), baseline=tuple(baseline), candidate=tuple(candidate))
    (verdict,) = decide([pairs], practical, start_noise)
    return verdict


SERVED = (2.49, 2.47, 2.51, 2.5, 2.48, 2.49)


@pytest.mark.parametrize("start_noise", [0.0, 0.1], ids=["sessions", "two runs"])
def test_an_slo_that_every_request_misses_is_worse(start_noise):
    found = goodput(SERVED, [0.0] * 6, start_noise=start_noise)
    assert (found.outcome, found.p_sign_flip, found.ratio) == ("worse", pytest.approx(2**-5), 0.0)
    assert found.reason.startswith("by differences, as a 0 has no ratio: -2.49 1/s (-2.")
    back = goodput([0.0] * 6, SERVED, start_noise=start_noise)
    assert (back.outcome, back.p_sign_flip, back.ratio) == ("better", pytest.approx(2**-5), None)


def test_which_way_is_better_is_the_metric_s():
    assert goodput(SERVED, [0.0] * 6, lower_is_better=True).outcome == "better"


def test_a_0_in_one_pair_is_a_value():
    """Less in every pair; the one that served nothing says how little the mean is known."""
    found = goodput(SERVED, [2.0, 2.0, 0.0, 2.0, 2.1, 2.0])
    assert (found.outcome, found.p_sign_flip) == ("undecided", pytest.approx(2**-5))
    assert found.difference.high > 0
    assert goodput(SERVED, [1.0, 1.0, 0.0, 1.0, 1.1, 1.0]).outcome == "worse"
    assert goodput(SERVED, [3.0, 3.1, 0.0, 3.0, 2.9, 3.0]).outcome == "undecided"
    assert goodput((0.0, *SERVED[1:]), (0.0, *SERVED[1:])).outcome == "equivalent"


def test_nothing_served_by_either_is_equivalent():
    found = goodput([0.0] * 6, [0.0] * 6)
    assert (found.outcome, found.ratio) == ("equivalent", None)
    assert found.reason.startswith("within 0.03 either way; by differences")


def test_too_few_pairs_with_a_0_decide_nothing():
    found = goodput(SERVED[:5], [0.0] * 5)
    assert (found.outcome, found.reason) == ("undecided", "5 pairs: fewer than 6 decide nothing")


def test_a_pair_without_a_value_beside_a_0_leaves_it_undecided():
    assert goodput(SERVED, [None, 0.0, 0.0, 0.0, 0.0, 0.0]).outcome == "undecided"


def test_start_noise_hides_a_difference_beside_a_0_too():
    baseline, candidate = (0.0, *[2.0] * 7), (0.0, *[1.9] * 7)
    assert goodput(baseline, candidate, start_noise=0.1).outcome == "undecided"
    assert goodput(baseline, candidate).outcome == "worse"


@pytest.mark.parametrize("candidate", [[0.0] * 6, [2.0, 2.0, 0.0, 2.0, 2.1, 2.0], SERVED[::-1]])
def test_exchanging_the_arms_exchanges_the_outcome_beside_a_0_too(candidate):
    baseline = (0.0, *SERVED[1:])
    turned = {"better": "worse", "worse": "better"}
    one, other = goodput(baseline, candidate).outcome, goodput(candidate, baseline).outcome
    assert one == turned.get(other, other)


def test_identical_arms_that_often_serve_nothing_are_rarely_called_different():
    """Whether differences are judged does not depend on the arm that a 0 is in."""
    generator, trials, alarms = np.random.default_rng(0), 300, 0
    for _ in range(trials):
        arms = generator.normal(2, 0.3, (2, 8)) * (generator.random((2, 8)) < 0.7)
        alarms += goodput(*arms.tolist()).outcome in ("better", "worse")
    assert alarms <= stats.binom.ppf(0.999, trials, 0.05)


def test_no_values_at_all():
    verdict = alone([None] * 8)
    assert (verdict.outcome, verdict.ratio, verdict.pairs_needed) == ("undecided", None, None)
    assert verdict.reason.startswith("no p50 in 8 of 8 pairs")


def test_an_empty_family():
    assert decide([]) == []


def test_identical_values_are_equivalent():
    """A deterministic backend: nothing to resample."""
    verdict = alone([1.0] * 6)
    assert (verdict.outcome, verdict.ratio, verdict.low, verdict.high, verdict.p) == ("equivalent", 1, 1, 1, 1)


def test_identical_ratios_decide():
    verdict = alone([1.5] * 6, baseline=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0))
    assert verdict.outcome == "worse"
    assert (verdict.low, verdict.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_nearly_identical_ratios_decide():
    """One in ten differs."""
    verdict = alone([1.5] * 9 + [1.6])
    assert verdict.outcome == "worse"
    assert 1.48 < verdict.low <= verdict.ratio <= verdict.high < 1.54


# Start noise


def test_start_noise_widens_the_interval_and_is_no_difference():
    plain, widened = describe(paired(SLOWER)), describe(paired(SLOWER), start_noise=0.1)
    assert (widened.low, widened.high) == (pytest.approx(plain.low / 1.1), pytest.approx(plain.high * 1.1))
    assert widened.ratio == plain.ratio
    assert plain.p < 0.001
    assert widened.p == 1.0


@pytest.mark.parametrize(("scale", "outcome"), [(1.0, "undecided"), (1.2, "worse")])
def test_start_noise_takes_a_larger_difference(scale, outcome):
    """Of 10 % and 32 %, each certain without it."""
    ratios = [scale * ratio for ratio in SLOWER]
    assert alone(ratios).outcome == "worse"
    assert alone(ratios, start_noise=0.1).outcome == outcome


def test_start_noise_leaves_nothing_equivalent_within_less():
    assert alone([1.0] * 6, start_noise=0.1).outcome == "undecided"


# Families


def family(*members):
    return decide([paired(ratios, case=f"c{index}") for index, ratios in enumerate(members)])


def test_one_effect_in_a_family_of_8_is_found_by_6_pairs():
    lone, *others = family(SLOWER[:6], *[LEVEL[:6]] * 7)
    assert lone.p_adjusted == pytest.approx(8 * lone.p)
    assert lone.outcome == "worse"
    assert {verdict.outcome for verdict in others} == {"undecided"}
    told = "neither a difference (p 1) nor within 0.03 (p 1), beside 8 questions"
    assert {verdict.reason for verdict in others} == {told}


def test_p_is_adjusted_by_holm():
    verdicts = family(*(logs_to_ratios(*[0.1] * (10 - against), *[-0.1] * against) for against in (2, 0, 3, 1)))
    two, none, three, one = (verdict.p for verdict in verdicts)
    assert none < one < two < three
    by_hand = [max(2 * two, 3 * one), 4 * none, max(2 * two, three), 3 * one]
    assert [verdict.p_adjusted for verdict in verdicts] == pytest.approx(by_hand)


def test_equivalence_is_adjusted_by_holm_too():
    alike = (1.01, 0.99, 1.012, 0.99, 1.0, 0.995)
    verdicts = family(alike, LEVEL[:6], LEVEL[:6])
    assert verdicts[0].p_equivalent_adjusted == pytest.approx(3 * verdicts[0].p_equivalent)
    assert [verdict.outcome for verdict in verdicts] == ["equivalent", "undecided", "undecided"]


def test_looks_make_p_dearer():
    pairs = paired(logs_to_ratios(0.1, 0.1, 0.1, 0.1, 0.03, -0.03))
    [once], [four_times] = decide([pairs]), decide([pairs], looks=(6, 8, 10, 12))
    assert once.p_adjusted == once.p == four_times.p
    assert 2 * once.p < four_times.p_adjusted < 4 * once.p


def test_a_look_ends_it_where_what_is_undecided_would_stay_so():
    decided, hopeless = paired(SLOWER[:6]), paired(LEVEL[:6])
    close = paired(logs_to_ratios(0.1, 0.12, 0.08, 0.1, 0.03, 0.0))
    assert settled(decide([decided, hopeless]), 12)
    [_, waiting] = found = decide([decided, close] + [hopeless] * 6)[:2]
    assert (waiting.outcome, 6 < waiting.pairs_needed <= 12) == ("undecided", True)
    assert not settled(found, 12)
    assert settled(found, 6)
    assert settled(decide([decided, paired([None, *SLOWER[:5]])]), 12)  # no further pair gives it the value it lacks


def test_a_tail_is_asked_only_where_what_it_follows_is_decided():
    ttft, tpot = paired(SLOWER, metric="ttft"), paired(LEVEL, metric="tpot")
    tails = [paired(SLOWER, metric=name, statistic="p90") for name in ("ttft", "tpot")]
    found = decide([ttft, tpot, *tails], after=[None, None, 0, 1])
    assert [verdict.outcome for verdict in found] == ["worse", "undecided", "worse", "undecided"]
    assert (found[3].reason, found[3].p_adjusted) == ("not asked, as p50 is undecided", None)


def test_what_was_not_measured_has_a_ratio_and_nothing_else():
    found = ratio_alone(paired(SLOWER), "not measured")
    assert found.ratio == describe(paired(SLOWER)).ratio
    assert (found.low, found.p, found.outcome, found.reason) == (None, None, None, "not measured")


def test_verdicts_come_in_the_familys_order_with_its_pairs():
    asked = [paired(SLOWER, metric="tpot"), paired(SLOWER[:3], metric="itl"), paired(LEVEL, metric="ttft")]
    assert [verdict.pairs for verdict in decide(asked)] == asked


@pytest.mark.parametrize(
    ("noise", "practical", "members", "pairs"),
    [
        # By the normal distribution; Student's t takes two to four more.
        pytest.param(0.0, 0.03, 8, 6, id="no-noise"),
        pytest.param(0.03 * math.sqrt(2), 0.03, 1, 19, id="3-percent-runs"),  # (2.8016 × 0.04243 / 0.02956)² = 16.17
        pytest.param(0.1, 0.03, 8, 151, id="a-family-asks-more"),  # (3.5760 × 0.1 / 0.02956)² = 146.4
        pytest.param(0.1, 0.10, 1, 11, id="wider-practical"),  # (2.8016 × 0.1 / 0.09531)² = 8.6
    ],
)
def test_pairs_for(noise, practical, members, pairs):
    assert pairs_for(noise, practical, members) == pairs


# What must not change a verdict


@pytest.mark.parametrize("effect", [1.0, 1.1, 1.3])
def test_swapping_the_arms_inverts(effect):
    pairs = simulated(np.random.default_rng(3), 8, effect=effect)
    swapped = Pairs("p64-c1", "ttft", "p50", "session", True, pairs.candidate, pairs.baseline)
    (one,), (other,) = decide([pairs]), decide([swapped])
    assert other.ratio == pytest.approx(1 / one.ratio)
    assert (other.low, other.high) == (pytest.approx(1 / one.high), pytest.approx(1 / one.low))
    assert other.p == pytest.approx(one.p)
    mirror = {"better": "worse", "worse": "better"}
    assert other.outcome == mirror.get(one.outcome, one.outcome)


def test_neither_the_unit_of_measure_nor_a_pairs_own_speed_matters():
    pairs = simulated(np.random.default_rng(4), 8, effect=1.1)
    speed = np.geomspace(10, 1e6, 8)
    scaled = Pairs(
        "p64-c1", "ttft", "p50", "session", True, *(tuple(speed * arm) for arm in (pairs.baseline, pairs.candidate))
    )
    one, other = describe(pairs), describe(scaled)
    assert [other.ratio, other.low, other.high, other.p] == pytest.approx([one.ratio, one.low, one.high, one.p])


def test_the_same_values_give_the_same_verdict():
    pairs = simulated(np.random.default_rng(5), 16)
    assert decide([pairs]) == decide([pairs])


# JSON


def plain(value):
    """Whether only what `json` writes without help is in it, NumPy's floats excluded."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if type(value) in (tuple, list):
        return all(map(plain, value))
    return type(value) in (str, float, int, bool, type(None))


@pytest.mark.parametrize(
    "ratios",
    [
        pytest.param(SLOWER, id="worse"),
        pytest.param([1.0] * 6, id="equivalent"),
        pytest.param(LEVEL, id="undecided"),
        pytest.param(SLOWER[:5], id="few-pairs"),
        pytest.param([None] * 6, id="no-values"),
    ],
)
def test_json_is_plain_data(ratios):
    verdict = alone(ratios)
    data = verdict.record().model_dump()
    assert plain(data)
    assert json.loads(json.dumps(data, allow_nan=False)) == verdict.record().model_dump(mode="json")
    assert data.keys() == {
        *("arm", "case", "metric", "statistic", "unit", "lower_is_better", "baseline", "candidate"),
        *("ratio", "low", "high", "p", "p_adjusted", "p_equivalent", "p_equivalent_adjusted", "p_sign_flip"),
        *("outcome", "reason", "fragile", "pairs_needed"),
    }


# A small calibration; benchmarks/studies/verdict has the large one


def test_few_false_alarms_and_most_effects_found():
    """5 % noise, 10 pairs: identical arms, and 10 % slower ones. The seed is fixed; the bars are the real ones."""
    generator = np.random.default_rng(20)
    same = [decide([simulated(generator, 10)])[0] for _ in range(300)]
    slower = [decide([simulated(generator, 10, effect=1.1)])[0] for _ in range(300)]
    assert sum(verdict.outcome in ("better", "worse") for verdict in same) / 300 <= 0.05
    assert sum(verdict.outcome == "worse" for verdict in slower) / 300 >= 0.90
    assert not any(verdict.outcome in ("better", "equivalent") for verdict in slower)
    covered = sum(verdict.low <= 1.1 <= verdict.high for verdict in slower) / 300
    assert 0.92 < covered < 0.98


def test_few_families_with_a_false_alarm():
    """Without the correction it would be about one in three families of 8."""
    generator = np.random.default_rng(21)
    families = [decide([simulated(generator, 8) for _ in range(8)]) for _ in range(400)]
    alarmed = sum(any(v.outcome in ("better", "worse") for v in family) for family in families)
    assert alarmed <= stats.binom.ppf(0.999, 400, 0.05)
    assert sum(any(v.p <= ALPHA for v in family) for family in families) / 400 > 0.25
