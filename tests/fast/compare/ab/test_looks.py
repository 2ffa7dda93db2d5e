"""How many pairs: fixed, or looks after which all is judged; what a pilot says; going on around a look."""

import re
from pathlib import Path

import pytest

from context_research.compare import comparison
from context_research.compare.ab import looks as ab_looks
from context_research.compare.ab import plan as ab_plan
from context_research.compare.ab import sessions as ab
from context_research.compare.ab.sessions import Ab
from context_research.compare.statistics import MIN_PAIRS, pairs_for
from context_research.errors import UsageProblem
from context_research.records.files import AbFiles
from context_research.settings.experiments import Experiment
from tests.support import made_runs
from tests.support.made_sessions import plan, recorded, run, two

LOOKS = {"pairs": None}
THREE = {"whole": "aggregated", "chunk": "aggregated --set engine.max_num_batched_tokens=64", "split": "disaggregated"}


@pytest.fixture
def simulated(monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    return {"pytest_options": ("--device-profile=h200",)}


def test_without_a_number_of_pairs_there_are_looks():
    assert (plan(pairs=None).pairs, plan(pairs=None).looks) == (12, (6, 8, 10, 12))
    assert (plan(pairs=7).pairs, plan(pairs=7).looks) == (7, ())
    assert (plan(pairs=None, looks=[7, 20]).pairs, plan(pairs=None, looks=[7, 20]).looks) == (20, (7, 20))


def test_what_measures_nothing_has_one_pair_and_no_looks(simulated):
    assert (plan(pairs=None, **simulated).pairs, plan(pairs=None, **simulated).looks) == (1, ())
    assert plan(pairs=4, **simulated).pairs == 4
    with pytest.raises(UsageProblem, match="--looks 6,8: backend simulated measures nothing"):
        plan(pairs=None, looks=[6, 8], **simulated)


@pytest.mark.parametrize("looks", [[], [5, 6], [6, 6], [8, 6], [0], [6, 8, 7]], ids=str)
def test_looks_that_cannot_be_are_refused(looks):
    with pytest.raises(UsageProblem, match=f"--looks .*: expected rising numbers of pairs from {MIN_PAIRS} on"):
        plan(pairs=None, looks=looks)


def test_looks_and_a_fixed_number_are_refused_together():
    with pytest.raises(UsageProblem, match=r"--looks 6,8: .*leave --pairs out"):
        plan(pairs=8, looks=[6, 8])


@pytest.mark.parametrize(
    ("values", "sessions", "judged"),
    [
        ({"pairs": 6}, "12 sessions, aggregated / disaggregated", "8 figures, judged together after 6 pairs"),
        (
            {"pairs": None},
            "12 to 24 sessions, aggregated / disaggregated",
            "8 figures, judged after 6, 8, 10 or 12 pairs: it ends once all are decided",
        ),
        (
            {"pairs": 3, "primary": ["ttft"], "pytest_options": ("--concurrency=1", "--prompt-lengths=64")},
            "6 sessions, aggregated / disaggregated",
            "one figure, judged together after 3 pairs; fewer than 6 decide nothing",
        ),
        (
            {"pairs": 6, "arms": THREE},
            "18 sessions, whole: aggregated / chunk: aggregated --set engine.max_num_batched_tokens=64"
            " / split: disaggregated",
            "16 figures, judged together after 6 pairs",
        ),
    ],
    ids=["fixed", "looks", "few", "three arms"],
)
def test_the_plan_says_what_there_will_be(values, sessions, judged):
    assert plan(**values).described == [sessions, judged]


def test_of_a_timed_load_it_says_how_long_that_takes():
    common = {"seed": 0, "repeats": 1, "allow_different": ()}
    made = ab_plan.plan(Experiment("e1", Path("benchmarks/e1")), two(), pairs=None, **common)
    rates = len(made.settings_of("baseline").axes["workload.rate"])
    assert rates * (4 + 15) == 133
    assert made.described[2] == (
        "warm-ups and windows take 0:02:13 a session (7 cases), 0:26:36 to 0:53:12 in all; engines' starts, "
        "what queues and rates that are added come on top"
    )


def test_what_measures_nothing_says_that_there_is_no_verdict(simulated):
    assert plan(pairs=None, **simulated).described[1] == (
        "32 figures, after a single pair: ratios without a verdict, as nothing is measured"
    )


# the pilot

PLANNED = (6, 8, 10, 12)


def test_the_pilot_says_how_the_pairs_scatter_and_how_many_would_do(outputs):
    figures = {"p64-c1": {"ttft": [0.1], "tpot": [0.01]}, "p64-c4": {"ttft": [0.2], "tpot": [0.01]}}
    found = comparison.of_ab(made_runs.A_B(outputs, pairs=3, noise=0.05, figures=figures))
    head, ttft, tpot = ab_looks.pilot(found, ["ttft", "tpot"], PLANNED)
    assert head.startswith("3 pairs are there")
    sd = found.pairs("ttft")[0].changes.std(ddof=1)
    assert ttft.startswith(
        f"  ttft p50: sd {sd:.1%} (worst of 2: {sd:.1%}); pairs for 5%: {pairs_for(sd, 0.05, 4, PLANNED)}, "
    )
    assert f"10%: {pairs_for(sd, 0.1, 4, PLANNED)}, 20%: {pairs_for(sd, 0.2, 4, PLANNED)}" in ttft
    assert tpot.startswith("  tpot p50: sd ")


def test_the_pilot_says_where_the_last_look_will_hardly_do(outputs):
    found = comparison.of_ab(made_runs.A_B(outputs, pairs=3, noise=0.2))
    needed = pairs_for(float(found.pairs("ttft")[0].changes.std(ddof=1)), 0.1, 1, PLANNED)
    assert needed > 12
    [_, told] = ab_looks.pilot(found, ["ttft"], PLANNED)
    assert told.endswith(f"; 12 will hardly do for 10%: more requests a session, or an A/B of --pairs {needed}")
    [_, told] = ab_looks.pilot(found, ["ttft"], (6, needed + 10))
    assert "hardly" not in told


def test_the_pilot_names_the_worst_case_beside_the_median(outputs, monkeypatch):
    found = comparison.of_ab(made_runs.A_B(outputs, pairs=3))
    [calm] = found.pairs("ttft")
    wild = ab_looks.Pairs(**{**_fields(calm), "case": "p64-c4", "candidate": (0.1, 0.2, 0.4)})
    monkeypatch.setattr(type(found), "pairs", lambda *_: [calm, calm, wild])
    [_, told] = ab_looks.pilot(found, ["ttft"], PLANNED)
    assert f"sd {calm.changes.std(ddof=1):.1%} (worst of 3: {wild.changes.std(ddof=1):.1%})" in told


def test_the_pilot_says_where_a_figure_has_no_ratio(outputs):
    figures = {"p64-c1": {"ttft": [0.1], "goodput": [0.0]}}
    found = comparison.of_ab(made_runs.A_B(outputs, pairs=3, figures=figures))
    assert ab_looks.pilot(found, ["goodput"], PLANNED)[1] == "  goodput mean: not known, as there is no value, or a 0"


def _fields(pairs):
    return {name: getattr(pairs, name) for name in pairs.__slots__}


def test_it_is_told_once_after_three_pairs(outputs, sessions):
    said = run(outputs, pairs=6)
    [place] = [number for number, line in enumerate(said) if "pairs are there" in line]
    assert said[place - 1].startswith("[6/12] ")
    assert said[place + 1].startswith("  ttft p50: ")
    assert said[place + 3].startswith("[7/12] pair 4, ")


@pytest.mark.parametrize("pairs", [2, 3])
def test_it_is_not_told_where_nothing_follows(outputs, sessions, pairs):
    assert not any("pairs are there" in line for line in run(outputs, pairs=pairs))


# looks


def apart(sessions, sd=0.0, ratio=1.5):
    """Have candidates be `ratio` times as slow, with a scatter from pair to pair."""

    def figures(number, arm):
        factor = 1.0 if arm in ("aggregated", "whole") else ratio * (1 + sd * (-1) ** (number // 3))
        return {"p64-c1": {"ttft": [0.1 * factor], "tpot": [0.01 * factor]}}

    sessions.figures = figures


def test_it_ends_at_the_first_look_where_all_is_decided(outputs, sessions):
    apart(sessions)
    said = run(outputs, **LOOKS)
    assert len(sessions.ran) == 2 * 6
    assert said[-1] == "after 6 pairs 2 of 2 figures decided: it ends here"
    record = recorded(outputs)
    assert record["status"] == "completed"
    assert [one["status"] for one in record["sessions"]] == ["completed"] * 12 + ["planned"] * 12
    judged = ab.judge(AbFiles(outputs, record["ab_id"]))
    assert ([each.outcome for each in judged.first], judged.comparison.final) == (["worse", "worse"], True)
    assert judged.record().looks == (6, 8, 10, 12)


def test_it_goes_on_to_the_next_look_where_not_all_is_decided(outputs, sessions):
    apart(sessions, sd=0.28)
    said = run(outputs, **LOOKS)
    looked = [line for line in said if line.startswith("after ")]
    assert looked[0] == "after 6 pairs 0 of 2 figures decided: on to the next look"
    assert looked[-1].endswith("it ends here")
    assert len(sessions.ran) == 2 * int(re.search(r"\d+", looked[-1])[0]) > 12


def test_it_ends_where_more_pairs_would_hardly_decide(outputs, sessions):
    def figures(number, arm):
        factor = 1.0 if arm == "aggregated" else 1.01 * (1 + 0.5 * (-1) ** (number // 3))
        return {"p64-c1": {"ttft": [0.1 * factor], "tpot": [0.01 * (1.0 if arm == "aggregated" else 1.5)]}}

    sessions.figures = figures
    said = run(outputs, **LOOKS)
    assert said[-1] == "after 6 pairs 1 of 2 figures decided; what is left would need far more than 12: it ends here"
    assert (len(sessions.ran), recorded(outputs)["status"]) == (12, "completed")


def test_what_is_at_a_look_and_goes_on_is_not_final(outputs, sessions, monkeypatch):
    """Judged by another command meanwhile."""
    seen = []
    sessions.figures = close_to_decided
    judge = ab.judge

    def judged(files):
        seen.append(judge(files))
        return seen[-1]

    monkeypatch.setattr(ab, "judge", judged)
    run(outputs, pairs=None, looks=[6, 8])
    [at_the_look] = seen
    assert (len(at_the_look.comparison.baseline.units), at_the_look.comparison.final) == (6, False)
    assert judge(AbFiles(outputs, recorded(outputs)["ab_id"])).comparison.final


def test_the_last_look_is_the_end(outputs, sessions):
    """What is undecided there stays so; the last verdict is told by who asked for it."""
    sessions.figures = close_to_decided
    said = run(outputs, pairs=None, looks=[6, 8])
    assert len(sessions.ran) == 16
    assert [line for line in said if line.startswith("after ")] == [
        "after 6 pairs 0 of 2 figures decided: on to the next look"
    ]
    assert recorded(outputs)["status"] == "completed"


def close_to_decided(number, arm):
    """Undecided at 6 pairs, and not far from it."""
    steps = (0.1, 0.12, 0.08, 0.1, 0.02, -0.01, 0.02, 0.1)
    factor = 1.0 if arm == "aggregated" else 1 + steps[(number - 1) // 2]
    return {"p64-c1": {"ttft": [0.1 * factor], "tpot": [0.01 * factor]}}


def test_places_and_time_left_are_to_the_next_look(outputs, sessions, monkeypatch):
    clock = iter(range(0, 100_000, 30))
    monkeypatch.setattr(ab.time, "monotonic", lambda: next(clock))
    sessions.figures = close_to_decided
    said = run(outputs, pairs=None, looks=[6, 8])
    assert said[0].startswith("[1/12] pair 1, ")
    assert said[1].endswith(", about 0:05:30 to the look after 6 pairs")
    assert said[-3].endswith(", about 0:00:30 left")
    assert said[-1].startswith("[16/16] ")


@pytest.mark.parametrize("at", [1, 5, 7, 12, 13, 16])
def test_a_kill_at_any_moment_is_gone_on_with(outputs, sessions, at):
    """In the pilot, in the last session before a look, in the first after it: as if nothing had been."""
    sessions.figures = lambda _, arm: close_to_decided(wanted(outputs), arm)

    def killed(number):
        if number == at:
            raise SystemExit(137)

    sessions.before = killed
    with pytest.raises(SystemExit):
        run(outputs, pairs=None, looks=[6, 8])
    sessions.before = lambda _: None
    said = run(outputs, pairs=None, looks=[6, 8])
    looked = "after 6 pairs 0 of 2 figures decided: on to the next look"
    assert said.count(looked) == (at <= 12)
    assert any("pairs are there" in line for line in said) == (at <= 12)
    assert len(sessions.ran) == 16 + 1
    record = recorded(outputs)
    assert (record["status"], {one["status"] for one in record["sessions"]}) == ("completed", {"completed"})


def wanted(outputs):
    """The number of the session that runs, from 1."""
    return next(n for n, one in enumerate(recorded(outputs)["sessions"], 1) if one["status"] == "running")


def test_a_kill_right_at_a_look_has_it_looked_again(outputs, sessions, monkeypatch):
    apart(sessions)
    judge = ab.judge

    def killed(_):
        raise SystemExit(137)

    monkeypatch.setattr(ab, "judge", killed)
    with pytest.raises(SystemExit):
        run(outputs, **LOOKS)
    assert recorded(outputs)["status"] == "stopped"
    monkeypatch.setattr(ab, "judge", judge)
    said = run(outputs, **LOOKS)
    assert said[0].endswith("12 of at most 24 sessions are there")
    assert said[1:] == ["after 6 pairs 2 of 2 figures decided: it ends here"]
    assert (len(sessions.ran), recorded(outputs)["status"]) == (12, "completed")


def test_a_spent_budget_says_how_many_there_may_be(outputs, sessions):
    with pytest.raises(ab.TimeIsUp, match="at most 23 are left"):
        Ab.open(outputs, plan(**LOOKS)).run(lambda _: None, budget=0)


def test_other_looks_are_another_ab(outputs, sessions):
    sessions.before = lambda _: 1
    for looks in ([6, 8], [6, 9]):
        with pytest.raises(UsageProblem):
            run(outputs, pairs=None, looks=looks)
    assert len(list((outputs / "ab").iterdir())) == 2


def test_three_arms_end_at_a_look_when_both_candidates_are_decided(outputs, sessions):
    apart(sessions)
    said = run(outputs, arms=THREE, against="split", **LOOKS)
    assert said[-1] == "after 6 pairs 4 of 4 figures decided: it ends here"
    assert len(sessions.ran) == 3 * 6
    judged = ab.judge(AbFiles(outputs, recorded(outputs)["ab_id"]))
    assert {(each.pairs.arm, each.outcome) for each in judged.first} == {("whole", "better"), ("chunk", "better")}
