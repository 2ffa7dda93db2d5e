"""Sessions in turn: what each is given, what is recorded, which verdicts come of them."""

import json
import os

import pytest

from context_research.compare.ab import sessions as ab
from context_research.compare.ab.sessions import Ab
from context_research.errors import UsageProblem
from tests.support import made_runs
from tests.support.made_sessions import plan, recorded, run


def test_each_session_gets_its_arm_its_seed_and_a_name(outputs, sessions):
    run(outputs, repeats=2, pytest_options=("-k", "c1"))
    assert [(each["serving"], each["seed"]) for each in sessions.ran] == [
        ("aggregated", "5"),
        ("disaggregated", "5"),
        ("disaggregated", "6"),
        ("aggregated", "6"),
        ("disaggregated", "7"),
        ("aggregated", "7"),
    ]
    assert {each["repeats"] for each in sessions.ran} == {"2"}
    assert {each["outputs"] for each in sessions.ran} == {str(outputs)}
    assert all(each["arguments"][0] == "benchmarks/e0" for each in sessions.ran)
    assert all(each["arguments"][1:3] == ["-k", "c1"] for each in sessions.ran)
    record = recorded(outputs)
    assert record["status"] == "completed"
    assert [session["run_id"] for session in record["sessions"]] == [each["run-id"] for each in sessions.ran]
    assert len({each["log"] for each in sessions.ran}) == 6


def test_the_record_says_what_runs_while_it_runs(outputs, sessions):
    seen = []
    sessions.before = lambda _: seen.append(recorded(outputs))
    run(outputs, pairs=1)
    assert [record["status"] for record in seen] == ["running", "running"]
    assert [[s["status"] for s in record["sessions"]] for record in seen] == [
        ["running", "planned"],
        ["completed", "running"],
    ]
    assert all(record["pid"] == os.getpid() for record in seen)
    assert seen[0]["sessions"][0]["run_id"] == sessions.ran[0]["run-id"]


def test_it_says_how_far_it_is_and_for_how_long(outputs, sessions, monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(ab.time, "monotonic", lambda: next(clock))
    said = run(outputs, pairs=2)
    assert said[0] == "[1/4] pair 1, baseline: aggregated (1 engine), seed 5"
    assert said[1] == "[1/4] 30 s, about 0:01:30 left"
    assert said[-1] == "[4/4] 30 s"


def test_time_left_is_each_arms_own(outputs):
    opened = Ab.open(outputs, plan())
    for number, seconds in enumerate((10.0, 50.0, 70.0), 1):
        opened._change(number, status="completed", seconds=seconds)
    # To come: baseline, baseline, candidate, at 10, 10 and (50 + 70) / 2.
    assert opened._time_left() == ", about 0:01:20 left"


def test_time_left_before_an_arm_has_run_is_the_other_arms(outputs):
    opened = Ab.open(outputs, plan(pairs=1))
    opened._change(1, status="completed", seconds=10.0)
    assert opened._time_left() == ", about 0:00:10 left"


def test_the_family_is_the_plans_unless_another_is_named(outputs):
    files = made_runs.A_B(outputs, primary=["tpot"], practical=0.1)
    judged = ab.judge(files)
    assert ([each.pairs.metric for each in judged.primary], judged.practical) == (["tpot"] * 3, 0.1)
    assert judged.beforehand
    assert ab.judge(files, primary=["tpot"]).beforehand
    assert not ab.judge(files, primary=["ttft"]).beforehand


def test_a_practical_difference_of_the_readers_is_not_named_beforehand(outputs):
    files = made_runs.A_B(outputs, ratio=1.02, noise=0.001)
    assert ab.judge(files, practical=0.03).beforehand
    assert not ab.judge(files, practical=0.01).beforehand


def test_the_plans_pytest_options_survive_the_record(outputs, sessions):
    run(outputs, pairs=1, pytest_options=("-k", "c1"))
    (path,) = (outputs / "ab").glob("*/ab.json")
    assert json.loads(path.read_text())["plan"]["pytest_options"] == ["-k", "c1"]


def test_a_session_that_was_sent_other_requests_than_its_pair_s_other_ends_the_ab(outputs, sessions, monkeypatch):
    write = made_runs.run

    def of_other_prompts(*arguments, **values):
        files = write(*arguments, **values)
        return made_runs.sent_otherwise(files) if len(sessions.ran) == 4 else files

    monkeypatch.setattr(made_runs, "run", of_other_prompts)
    with pytest.raises(UsageProblem, match="were sent different requests in case p64-c1"):
        run(outputs, pairs=3)
    record = recorded(outputs)
    assert (record["status"], len(sessions.ran)) == ("stopped", 4)
    assert [session["status"] for session in record["sessions"]][:4] == [*["completed"] * 3, "failed"]
