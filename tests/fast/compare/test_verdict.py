import pytest

from context_research.compare import statistics, verdict
from context_research.compare.comparison import of_ab, of_runs
from context_research.errors import UsageProblem
from context_research.records.files import RunFiles
from tests.support import made_runs
from tests.support.artifacts import keep, plain
from tests.support.made_runs import CASE

AA = {"baseline": "aggregated", "candidate": "aggregated"}
TWO = {CASE: {"ttft": [0.1], "tpot": [0.01], "e2e": [0.2]}, "p64-c2": {"ttft": [0.3], "tpot": [0.01], "e2e": [0.2]}}


def judged(outputs, *, primary=None, practical=None, start_noise=None, noise_floor=None, **ab):
    return verdict.judge(of_ab(made_runs.A_B(outputs, **ab)), primary, practical, start_noise, noise_floor)


def repeats(outputs, ratio=1.3, count=6, **values):
    """Two runs of `count` repeats, the second's TTFT `ratio` × the first's."""
    scatter = [1 + 0.001 * index for index in range(count)]
    one, other = ({CASE: {"ttft": [0.1 * scale * each for each in scatter]}} for scale in (1, ratio))
    return of_runs(*made_runs.pair(outputs, one, other, **values))


E2E = [*(("p50", case) for case in TWO), *((tail, case) for case in TWO for tail in ("p90", "p99"))]
"""A family of one metric: its figures are asked at once, then what follows each."""


def figures(verdicts):
    return [(each.pairs.metric, each.pairs.statistic, each.pairs.case) for each in verdicts]


def test_ttft_and_tpot_are_judged_in_every_case_unless_others_are_named(tmp_path):
    found = judged(tmp_path, figures=TWO)
    family = [(metric, "p50", case) for metric in ("ttft", "tpot") for case in TWO]
    tails = [(*each[:1], tail, each[2]) for each in family for tail in ("p90", "p99")]
    assert figures(found.primary) == family + tails
    assert figures(found.descriptive) == [("e2e", "p50", case) for case in TWO]
    assert found.beforehand
    assert all(each.outcome for each in found.primary)
    assert not any(each.outcome or each.p_adjusted for each in found.descriptive)


def test_another_family_can_be_named(tmp_path):
    found = judged(tmp_path, figures=TWO, primary=["e2e"])
    assert figures(found.primary) == [("e2e", which, case) for which, case in E2E]
    assert {metric for metric, *_ in figures(found.descriptive)} == {"ttft", "tpot"}
    assert not found.beforehand


@pytest.mark.parametrize("statistic", ["mean", "p50", "p90", "p95", "p99"])
def test_a_figure_can_be_named(tmp_path, statistic):
    found = judged(tmp_path, primary=[f"ttft.{statistic}"])
    following = {"mean": (), "p50": ("p90", "p99"), "p90": ("p99",), "p95": ("p99",), "p99": ()}[statistic]
    assert figures(found.primary) == [("ttft", which, CASE) for which in (statistic, *following)]
    # The metric's own statistic is still described, unless it is the one that is judged.
    assert (("ttft", "p50", CASE) in figures(found.descriptive)) == (statistic != "p50")


@pytest.mark.parametrize("name", ["ttf", "ttft.p42", "ttft.", "ttft.p90.p90", "", "handoff"])
def test_an_unknown_figure_is_refused_with_those_there_are(tmp_path, name):
    with pytest.raises(UsageProblem) as problem:
        judged(tmp_path, primary=[name])
    assert str(problem.value).startswith(f"--primary {name}: no such figure in ab1; metrics: ttft, tpot;")


def test_a_class_has_figures_of_its_own(tmp_path):
    of = {CASE: {"ttft": [0.1], "chat.ttft": [0.05], "chat.tpot": [0.01]}}
    found = judged(tmp_path, figures=of, primary=["chat.ttft", "chat.ttft.p90"], ratio=1.3)
    assert figures(found.primary) == [("chat.ttft", which, CASE) for which in ("p50", "p90", "p99")]
    assert {each.outcome for each in found.primary} == {"worse"}
    with pytest.raises(UsageProblem) as problem:
        judged(tmp_path / "b", figures=of, primary=["document.ttft"])
    there_are = "metrics: ttft, tpot; of a class (chat) alone: chat.ttft; with .mean or .p50 … .p99"
    assert str(problem.value) == f"--primary document.ttft: no such figure in ab1; {there_are}"


def test_a_figure_named_twice_counts_once_in_the_family(tmp_path):
    found = judged(tmp_path, primary=["ttft.p99", "tpot.mean", "tpot.mean"]).primary
    assert figures(found) == [("ttft", "p99", CASE), ("tpot", "mean", CASE)]
    assert found[0].p_adjusted == pytest.approx(2 * found[0].p)


def test_the_practical_difference_is_the_users(tmp_path):
    assert judged(tmp_path / "a", ratio=1.02, noise=0.001).practical == statistics.PRACTICAL
    assert judged(tmp_path / "b", ratio=1.02, noise=0.001).primary[0].outcome == "equivalent"
    assert judged(tmp_path / "c", ratio=1.02, noise=0.001, practical=0.01).primary[0].outcome == "worse"


def test_a_practical_difference_of_nothing_is_kept(tmp_path):
    assert judged(tmp_path, practical=0.0).practical == 0.0


def test_worse_are_the_primary_ones_alone(tmp_path):
    found = judged(tmp_path, ratio=1.3)
    assert {each.outcome for each in found.worse} == {"worse"}
    assert figures(found.worse) == figures(found.primary)
    assert judged(tmp_path / "b", ratio=0.7).worse == []


def test_a_metric_that_one_arm_lacks_is_not_described(tmp_path):
    found = verdict.judge(
        of_runs(*made_runs.pair(tmp_path, made_runs.FLAT, {CASE: made_runs.FLAT[CASE] | {"handoff": [0.1]}}))
    )
    assert found.descriptive == []


# Several arms


THREE = {"whole": "aggregated", "chunk": "aggregated --set engine.max_num_batched_tokens=64", "split": "disaggregated"}


def test_each_arm_is_held_against_the_first_and_all_are_one_family(tmp_path):
    found = judged(tmp_path, arms=THREE, ratio=1.3, primary=["ttft.mean"])
    assert [(each.pairs.arm, each.outcome) for each in found.primary] == [("chunk", "worse"), ("split", "worse")]
    smaller, larger = sorted(found.primary, key=lambda each: each.p)
    assert smaller.p_adjusted == pytest.approx(2 * smaller.p)
    assert larger.p_adjusted == pytest.approx(max(larger.p, smaller.p_adjusted))
    assert [side.arm for side in found.record().sides] == list(THREE)


def test_any_arm_can_be_the_one_that_others_are_held_against(tmp_path):
    found = judged(tmp_path, arms=THREE, against="split", ratio=1.3, primary=["ttft.mean"])
    assert [(each.pairs.arm, each.outcome) for each in found.primary] == [("whole", "worse"), ("chunk", "worse")]


# What was not measured


def test_simulated_runs_get_ratios_and_no_verdict(tmp_path):
    """Six identical numbers are no interval."""
    simulated = {arm: {"backend": "simulated"} for arm in made_runs.MODES}
    found = judged(tmp_path, ratio=1.3, noise=0.0, changes=simulated)
    assert figures(found.primary) == [("ttft", "p50", CASE), ("tpot", "p50", CASE)]
    for each in found.primary:
        assert each.ratio == pytest.approx(1.3)
        assert (each.outcome, each.low, each.p, each.p_adjusted) == (None, None, None, None)
        assert each.reason == "simulated: not measured, so no verdict"
    assert found.worse == []


# Start noise


def test_sessions_are_starts_of_their_own_and_get_no_start_noise(tmp_path):
    assert judged(tmp_path, start_noise=0.5).start_noise == 0.0


def test_repeats_of_two_runs_get_the_start_noise(tmp_path):
    two = repeats(tmp_path, ratio=1.05)
    default, none, more = (verdict.judge(two, ["ttft"], start_noise=given) for given in (None, 0.0, 0.2))
    assert (default.start_noise, none.start_noise, more.start_noise) == (verdict.START_NOISE, 0.0, 0.2)
    assert [found.primary[0].outcome for found in (default, none, more)] == ["undecided", "worse", "undecided"]
    assert default.primary[0].low < none.primary[0].low < none.primary[0].high < default.primary[0].high


def test_the_start_noise_goes_to_descriptions_too(tmp_path):
    two = repeats(tmp_path, ratio=1.05)
    wide, narrow = (verdict.judge(two, ["ttft.mean"], start_noise=given).descriptive[0] for given in (0.2, 0.0))
    assert wide.low < narrow.low


def test_a_difference_beyond_the_start_noise_is_decided(tmp_path):
    assert verdict.judge(repeats(tmp_path, ratio=1.5), ["ttft"]).primary[0].outcome == "worse"


# Noise floor


def test_a_quiet_aa_leaves_the_verdicts_as_they_are(tmp_path):
    quiet = of_ab(made_runs.A_B(tmp_path, ab_id="aa", arms=AA, noise=0.001))
    assert {each.outcome for each in judged(tmp_path, ratio=1.3, noise_floor=quiet).primary} == {"worse"}


@pytest.mark.parametrize("ratio", [1.3, 0.7], ids=["slower", "faster"])
def test_what_differs_in_the_aa_is_not_decided(tmp_path, ratio):
    figures_of = {CASE: {"ttft": [0.1], "tpot": [0.01]}}
    loud = of_ab(made_runs.A_B(tmp_path, ab_id="aa", arms=AA, ratio=ratio, figures=figures_of))
    found = judged(tmp_path, ratio=1.3, noise_floor=loud)
    assert {each.outcome for each in found.primary} == {"undecided"}
    assert found.primary[0].reason.startswith(f"the A/A differs too: {ratio:.1f}"[:-1])
    assert found.worse == []


def test_an_undecided_aa_alarms_no_one(tmp_path):
    noisy = of_ab(made_runs.A_B(tmp_path, ab_id="aa", arms=AA, ratio=1.01, noise=0.2))
    assert judged(tmp_path, ratio=1.3, noise_floor=noisy).primary[0].outcome == "worse"


def test_an_aa_of_too_few_pairs_is_refused_as_it_could_not_alarm(tmp_path):
    few = of_ab(made_runs.A_B(tmp_path, ab_id="aa", arms=AA, ratio=1.5, pairs=5))
    with pytest.raises(UsageProblem, match="aa has 5 pairs: a noise floor takes 6"):
        judged(tmp_path, ratio=1.3, noise_floor=few)


def test_arms_that_differ_are_no_noise_floor(tmp_path):
    other = of_ab(made_runs.A_B(tmp_path, ab_id="other"))
    with pytest.raises(UsageProblem, match="other is no A/A: its arms differ, so it shows no noise floor"):
        judged(tmp_path, noise_floor=other)


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": "e1"},
        {"backend": "simulated"},
        {"environment_manifest.machine.cpu.model": "Z80"},
        {"model.name": "other"},
    ],
    ids=str,
)
def test_a_noise_floor_of_something_else_is_refused(tmp_path, changes):
    other = of_ab(made_runs.A_B(tmp_path, ab_id="aa", arms=AA, changes=dict.fromkeys(AA, changes)))
    with pytest.raises(UsageProblem):
        judged(tmp_path, noise_floor=other)


# verdict.json


@pytest.mark.parametrize("pairs", [1, 2, 6])
def test_it_passes_its_schema(tmp_path, pairs):
    found = judged(tmp_path, pairs=pairs)
    keep(tmp_path / "verdict.json", "verdict", found.record().model_dump(mode="json"))
    written = plain(tmp_path / "verdict.json", "verdict")
    assert (written["comparison"], written["unit"], written["experiment"]) == ("ab1", "session", "e0")
    assert [side["runs"] for side in written["sides"]] == [
        [run.files.run_id for run in side.runs] for side in found.comparison.sides
    ]
    assert [entry["outcome"] for entry in written["primary"]] == [each.outcome for each in found.primary]
    assert written["named_beforehand"] is True
    assert written["allowed_differences"] == {}


def test_of_repeats_it_passes_its_schema_and_tells_the_noise(tmp_path):
    found = verdict.judge(repeats(tmp_path), ["ttft"])
    keep(tmp_path / "verdict.json", "verdict", found.record().model_dump(mode="json"))
    assert (found.record().unit, found.record().start_noise) == ("repeat", verdict.START_NOISE)


def test_it_tells_what_was_allowed(tmp_path):
    changes = {"candidate": {"settings.model.dtype": "bfloat16"}}
    found = judged(tmp_path, changes=changes, allow_different=["model.dtype"])
    assert found.record().allowed_differences == {"model.dtype": ("float32", "bfloat16")}


# Looks before the end, and pairs without a value


def test_a_verdict_before_the_planned_end_says_so(tmp_path):
    """Who looks after every pair and stops at the first `worse` has more false alarms than 5 %."""
    files = made_runs.A_B(tmp_path, pairs=8, ratio=1.3)
    made_runs.edit(files.record, "ab", status="stopped", sessions__15__status="planned", sessions__14__status="planned")
    found = verdict.judge(of_ab(files))
    assert found.record().planned_pairs == 8
    assert len(found.record().primary[0].baseline) == 7


def test_pairs_that_have_no_value_on_one_side_are_not_left_out_of_a_verdict(tmp_path):
    """Goodput 0 in 4 of 10 sessions is the worst there is: without those the candidate would be better."""
    files = made_runs.A_B(tmp_path, pairs=10, noise=0.001, figures={CASE: {"goodput": [5.0]}}, ratio=1.2)
    for session in plain(files.record, "ab")["sessions"]:
        if session["arm"] == "candidate" and session["pair"] >= 6:
            path = RunFiles(tmp_path, session["run_id"]).summary("e0")
            made_runs.edit(path, "summary", cases__0__metrics__goodput__mean=0.0)
    (found,) = verdict.judge(of_ab(files), ["goodput"]).primary
    assert found.outcome != "better"


def test_an_ab_that_could_have_been_stopped_at_looks_pays_for_them(tmp_path):
    plain_one = judged(tmp_path / "a", ratio=1.3, primary=["ttft.mean"])
    looked = judged(tmp_path / "b", ratio=1.3, primary=["ttft.mean"], looks=[6, 8, 10, 12])
    assert looked.primary[0].p == plain_one.primary[0].p
    assert looked.primary[0].p_adjusted > 2 * looked.primary[0].p
    assert looked.record().looks == (6, 8, 10, 12)


@pytest.mark.parametrize(("done", "final"), [(5, False), (6, True), (7, False), (8, True), (12, True)])
def test_it_is_final_at_a_look_and_at_the_end(tmp_path, done, final):
    files = made_runs.A_B(tmp_path, pairs=12, looks=[6, 8, 10, 12])
    for index in range(2 * done, 24):
        made_runs.edit(files.record, "ab", **{f"sessions__{index}__status": "planned"})
    assert of_ab(files).final is final


def test_one_that_was_killed_at_a_look_is_not_final(tmp_path):
    """It may have had to go on: who counts it as ended has more looks than were planned."""
    files = made_runs.A_B(tmp_path, pairs=12, looks=[6, 8, 10, 12])
    for index in range(12, 24):
        made_runs.edit(files.record, "ab", **{f"sessions__{index}__status": "planned"})
    made_runs.edit(files.record, "ab", status="stopped")
    assert not of_ab(files).final
