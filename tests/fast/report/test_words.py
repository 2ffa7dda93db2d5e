"""The verdict in words: made findings, so that every outcome, magnitude and ending is told as it should be."""

from dataclasses import replace

import pytest

from context_research.compare import verdict
from context_research.compare.comparison import of_ab
from context_research.compare.statistics import Difference, Pairs, Verdict
from context_research.report import simulated, verdicts, words
from tests.support import made_runs
from tests.support.artifacts import keep, plain

ARMS = {"base": "aggregated", "1P1D": "disaggregated", "tuned": "aggregated --set engine.max_num_batched_tokens=1024"}


def found(outcome, ratio=1.0, case="p64-c1", metric="ttft", statistic="p50", arm="candidate", **values):
    """One verdict of six pairs."""
    pairs = Pairs(case, metric, statistic, "s", True, (0.1,) * 6, (0.1 * (ratio or 1),) * 6, arm)
    return Verdict(pairs, ratio, outcome=outcome, p=0.01, p_adjusted=0.02, **values)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return verdict.judge(of_ab(made_runs.A_B(tmp_path_factory.mktemp("ab"))))


def told(six, *founds, **comparison):
    findings = replace(six, primary=founds, comparison=replace(six.comparison, **comparison))
    who, _, what = words.headline(findings).partition(": ")
    assert who == "disaggregated (1P1D) against aggregated (1 engine), 6 pairs"
    return what


def test_counts_and_magnitudes_of_each_outcome(six):
    cases = ("c1", "c2", "c3", "c4")
    ttft = [found("worse", ratio, case) for ratio, case in zip((1.62, 2.1, 1.8, 1.7), cases, strict=True)]
    tpot = [found("better", ratio, case, "tpot") for ratio, case in zip((0.86, 0.91, 0.9), cases, strict=False)]
    equal = found("equivalent", 1.01, "c4", "tpot")
    assert told(six, *ttft, *tpot, equal) == (
        "TTFT worse in 4 of 4 cases, by 62 to 110 %. TPOT better in 3 of 4 cases, by 9 to 14 %; equivalent in 1 (c4)."
    )


def test_a_single_case_is_not_counted_and_small_changes_keep_a_digit(six):
    assert told(six, found("worse", 1.042)) == "TTFT worse, by 4.2 %."


def test_large_changes_are_factors_and_those_from_zero_are_said(six):
    assert told(six, found("worse", 1.05, "a"), found("worse", 10.5, "b")) == (
        "TTFT worse in 2 of 2 cases, × 1.05 to × 10.5."
    )
    zero = found("better", None, "b", "goodput", "mean", difference=Difference(2.5, 2.4, 2.6))
    half = found("better", 1.5, "a", "goodput", "mean")
    assert told(six, half, zero) == "goodput better in 2 of 2 cases, by 50 %, from 0 in 1."
    assert told(six, zero) == "goodput better, from 0."


@pytest.mark.parametrize(
    ("values", "would"),
    [
        ({"pairs_needed": 14}, "about 14 pairs would tell"),
        ({"pairs_needed": 9377}, "more than 200 pairs would tell"),
        ({"pairs_needed": 6}, "a few more pairs would tell"),
        ({"reason": "the A/A differs too: 1.05"}, "the A/A differs too: 1.05"),
    ],
    ids=["more pairs", "out of reach", "as many as there are", "noise floor"],
)
def test_undecided_ones_say_what_would_decide(six, values, would):
    assert told(six, found("undecided", **values)) == f"TTFT undecided ({would})."


def test_those_that_need_other_numbers_of_pairs_have_the_range(six):
    far, near, now = (found("undecided", case=f"c{needed}", pairs_needed=needed) for needed in (61, 11, 6))
    assert told(six, far, near) == "TTFT undecided in 2 of 2 cases (about 11 to 61 pairs would tell)."
    assert told(six, far, now) == "TTFT undecided in 2 of 2 cases (about 61 pairs would tell)."


@pytest.mark.parametrize(
    ("needed", "told"),
    [
        ([120, 9377], "120 to more than 200 pairs would tell"),
        ([300, 9377], "more than 200 pairs would tell"),
        ([4, 9377], "more than 200 pairs would tell"),
        ([4, 6], "a few more pairs would tell"),
        ([30, 14], "about 14 to 30 pairs would tell"),
    ],
)
def test_more_pairs_than_anyone_will_measure_are_a_bound(needed, told):
    assert words.pairs_told(6, needed) == told


def test_too_few_pairs_decide_nothing(tmp_path):
    findings = verdict.judge(of_ab(made_runs.A_B(tmp_path, pairs=1)))
    assert "1 pair: TTFT undecided (fewer than 6 pairs decide nothing)." in words.headline(findings)


def test_tails_are_told_behind_their_metric_where_they_were_asked(six):
    tail = found("worse", 1.3, statistic="p90")
    not_asked = found("undecided", 1.3, metric="tpot", statistic="p90", asked=False)
    tpot = found("undecided", metric="tpot", pairs_needed=9)
    assert told(six, found("worse", 1.2), tpot, tail, not_asked) == (
        "TTFT worse, by 20 %. TTFT p90 worse, by 30 %. TPOT undecided (about 9 pairs would tell)."
    )


def test_fragile_ones_are_marked(six):
    weak = found("worse", 1.2, fragile="without pair 3 it would be undecided")
    assert told(six, weak).endswith("Fragile: TTFT in p64-c1, without pair 3 it would be undecided.")
    many = [found("worse", 1.2, f"c{number}", fragile="weak") for number in range(5)]
    assert told(six, *many).endswith("TTFT in c2, weak; and 2 more, marked † below.")


@pytest.mark.parametrize(
    ("planned", "looks", "ending"),
    [
        (6, (), None),
        (8, (), "Not final: 6 of 8 planned pairs, and a look too early raises alarms."),
        (12, (8, 12), "Not final: 6 of at most 12 pairs; it is judged after 8 and 12."),
        (12, (6, 8, 12), "It ended at a planned look, after 6 of at most 12 pairs; every p allows for all looks."),
    ],
    ids=["all", "early", "between looks", "at a look"],
)
def test_how_far_it_got_is_said(six, planned, looks, ending):
    what = told(six, found("worse", 1.2), planned=planned, looks=looks)
    assert what == "\n".join(filter(None, ("TTFT worse, by 20 %.", ending)))


def test_each_of_several_candidates_has_its_line_and_tables_name_it(tmp_path):
    findings = verdict.judge(of_ab(made_runs.A_B(tmp_path, arms=ARMS, ratio=1.5)))
    lines = words.headline(findings).splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"{arm} against base (1 engine)" for arm in ("1P1D", "tuned (1 engine)")
    ]
    rows = verdicts.terminal_table(findings).splitlines()
    assert rows[0].split()[:3] == ["metric", "case", "arm"]
    assert [row.split()[2] for row in rows[2:4]] == ["1P1D", "tuned"]


def test_figures_are_called_by_class_and_by_what_is_not_their_own_statistic(six):
    names = [("ttft", "p50"), ("chat.ttft", "p90"), ("ttft", "mean"), ("goodput", "mean"), ("output_token_time", "p50")]
    assert [words.name(found("worse", metric=metric, statistic=statistic)) for metric, statistic in names] == [
        "TTFT",
        "chat TTFT p90",
        "TTFT mean",
        "goodput",
        "output_token_time p50",
    ]


SIMULATED = {arm: {"backend": "simulated"} for arm in ("baseline", "candidate")}
ERRORS = {"ttft": {"p50": {"median": 0.069, "worst": 0.451, "figures": 58}}}


def simulated_ab(outputs, errors):
    files = made_runs.A_B(outputs, noise=0.0, ratio=1.3, changes=SIMULATED)
    for path in outputs.glob("runs/*/run_metadata.json"):
        kept = plain(path, "run_metadata")
        steps = {"source": "linear"}
        known = {"device_profile": "h200", "digest": "0", "calibrated": False, "step_times": steps, "errors": errors}
        kept["engines"] = [engine | {"simulated": known} for engine in kept["engines"]]
        keep(path, "run_metadata", kept)
    return verdict.judge(of_ab(files))


def test_simulated_runs_have_ratios_and_the_simulators_error_and_no_verdict(tmp_path):
    findings = simulated_ab(tmp_path, ERRORS)
    lines = words.headline(findings).splitlines()
    assert lines[0] == (
        "SIMULATED, no verdict: disaggregated (1P1D) against aggregated (1 engine), 6 pairs: TTFT × 1.3. TPOT × 1.3."
    )
    assert "profile h200 were from real ones: ttft p50 median 6.9 %, at most 45 % (58 figures)" in lines[1]
    table = verdicts.whole_table(findings)
    assert "median 6.9 %, at most 45 % of 58" in table
    assert simulated.NOT_KNOWN in table  # of TPOT
    assert "better" not in table
    assert "worse" not in table


def test_an_error_that_is_not_known_is_said(tmp_path):
    assert words.headline(simulated_ab(tmp_path, {})).endswith(
        "How far off the simulator is: error not known for this profile."
    )


def test_a_class_has_the_error_of_all_requests(tmp_path):
    run = simulated_ab(tmp_path, ERRORS).comparison.baseline.runs[0].metadata
    assert simulated.of_figure(run, "chat.ttft", "p50") == simulated.of_figure(run, "ttft", "p50")
