"""`ab` on the command line: sessions that write artifacts instead of running, bad input in one line."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from context_research.records.files import AbFiles
from tests.support import made_runs
from tests.support.artifacts import plain
from tests.support.commands import refused, run
from tests.support.made_runs import FLAT

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def outputs(here):
    return here / "outputs"


def ended(code):
    """A session's process that has."""
    return SimpleNamespace(returncode=code, poll=lambda: code)


@pytest.fixture
def sessions(here, monkeypatch):
    """An experiment's folder, and sessions that write artifacts instead of running."""
    (here / "benchmarks" / "e0").mkdir(parents=True)
    (here / "benchmarks" / "e0" / "test_e0.py").touch()
    ran = []

    def begin(arguments, log, device, group):
        given = dict(
            word.removeprefix("--cr-").split("=", 1) for word in arguments if word.startswith("--cr-") and "=" in word
        )
        ran.append(SimpleNamespace(**{key.replace("-", "_"): value for key, value in given.items()}))
        made_runs.run(Path(given["outputs"]), given["run-id"], FLAT, serving=given["serving"], seed=int(given["seed"]))
        return ended(0)

    monkeypatch.setattr("context_research.compare.ab.processes.begin", begin)
    return ran


def test_ab_runs_both_arms_and_tells_the_verdict(outputs, sessions):
    result = run("ab", "e0", "--pairs", 2)
    assert result.exit_code == 0, result.output
    assert [session.serving for session in sessions] == [
        "aggregated", "disaggregated", "disaggregated", "aggregated",
    ]  # fmt: skip
    (folder,) = (outputs / "ab").iterdir()
    assert plain(AbFiles(outputs, folder.name).verdict, "verdict")["comparison"] == folder.name
    assert f"report  outputs/reports/{folder.name}.md" in result.stdout


THREE = (
    "--arm",
    "whole=aggregated",
    "--arm",
    "small=aggregated --set engine.max_num_seqs=64",
    "--arm",
    "pd=disaggregated",
)


def test_any_number_of_arms_are_run_by_name_and_judged_against_the_first(outputs, sessions):
    result = run("ab", "e0", *THREE, "--pairs", 2)
    assert result.exit_code == 0, result.output
    assert [session.serving for session in sessions] == [
        "aggregated", "aggregated", "disaggregated", "disaggregated", "aggregated", "aggregated",
    ]  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0].endswith(
        "6 sessions, whole: aggregated / small: aggregated --set engine.max_num_seqs=64 / pd: disaggregated"
    )
    assert lines[1].startswith("16 figures, judged together after 2 pairs")
    assert "[5/6] pair 2, small: aggregated --set engine.max_num_seqs=64 (1 engine), seed 1" in lines
    (folder,) = (outputs / "ab").iterdir()
    kept = plain(AbFiles(outputs, folder.name).verdict, "verdict")
    assert [side["arm"] for side in kept["sides"]] == ["whole", "small", "pd"]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ([*THREE, "--against", "pd"], ["pd", "whole", "small"]),
        (["--against", "candidate"], ["candidate", "baseline"]),
    ],
    ids=["named", "the two"],
)
def test_each_arm_is_held_against_the_one_that_was_named(outputs, sessions, options, order):
    assert run("ab", "e0", *options, "--pairs", 1).exit_code == 0
    (path,) = outputs.rglob("verdict.json")
    assert [side["arm"] for side in plain(path, "verdict")["sides"]] == order


def test_two_arms_may_serve_the_same(outputs, sessions):
    result = run("ab", "e0", "--arm", "one=aggregated", "--arm", "two=aggregated", "--pairs", 1)
    assert result.exit_code == 0, result.output


def test_without_a_number_of_pairs_it_says_when_all_is_judged(outputs, sessions):
    result = run("ab", "e0", "--looks", "6,7", "--budget", 0)
    assert result.exit_code == 75
    assert "8 figures, judged after 6 or 7 pairs: it ends once all are decided" in result.stdout.splitlines()
    assert "at most 13 are left: call again to go on" in result.stdout


def test_ab_plans_with_the_projects_ini_keys(here, sessions):
    ini = "[pytest]\ncontext_research_requests = 9\ncontext_research_outputs = elsewhere\n"
    (here / "pytest.ini").write_text(ini)
    assert run("ab", "e0", "--pairs", 1).exit_code == 0
    (path,) = (here / "elsewhere" / "ab").glob("*/ab.json")
    planned = plain(path, "ab")["plan"]["settings"]
    assert [planned[arm]["workload"]["requests"] for arm in ("baseline", "candidate")] == [9, 9]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["e77"], "no experiment 'e77' here (there are: e0): run this in its repository"),
        (["e0", "--baseline", ""], "begin with a serving mode (aggregated, aggregated-2x, "),
        (["e0", "--candidate", "split"], "unknown serving mode 'split'"),
        (["e0", "--candidate", "--dtype half"], "begin with a serving mode"),
        (["e0", "--candidate", "aggregated --seed=3"], "--candidate: --seed is no option of an arm; those are "),
        (["e0", "--candidate", "aggregated --dtype"], "--candidate: --dtype needs a value"),
        (["e0", "--candidate", "aggregated -k c1"], "--candidate: -k is no option of an arm"),
        (["e0", "--candidate", "aggregated --serving=disaggregated"], "the serving mode is the arm's first word"),
        (["e0", "--candidate", "aggregated --set engine.blocksize=1"], "engine.blocksize: unknown key"),
        (["e0", "--candidate", "aggregated --set engine.block_size=no"], "engine.block_size: "),
        (["e0", "--candidate", "aggregated 'unbalanced"], "--candidate"),
        (["e0", "--primary", "ttft.p42"], "--primary 'ttft.p42': expected metrics"),
        (["e0", "--arm", "a=aggregated"], "--arm: a has nothing to be held against; give a second --arm"),
        (["e0", "--arm", "aggregated"], "--arm 'aggregated': expected NAME='serving mode or file, then options'"),
        (["e0", "--arm", "a b=aggregated", "--arm", "c=aggregated"], "--arm 'a b=aggregated': expected NAME="),
        (["e0", "--arm", "../a=aggregated", "--arm", "c=aggregated"], "--arm '../a=aggregated': expected NAME="),
        (["e0", "--arm", "=aggregated", "--arm", "c=aggregated"], "--arm '=aggregated': expected NAME="),
        (["e0", "--arm", f"{'a' * 33}=aggregated", "--arm", "c=aggregated"], "a NAME of up to 32 letters"),
        (
            ["e0", "--arm", "a=aggregated", "--arm", "A=disaggregated"],
            "--arm: two arms are called a; names must differ",
        ),
        (["e0", "--arm", "a=split", "--arm", "b=aggregated"], "unknown serving mode 'split'"),
        (["e0", "--arm", "a=", "--arm", "b=aggregated"], "--arm a '': begin with a serving mode"),
        (["e0", "--arm", "a=aggregated -k c1", "--arm", "b=aggregated"], "--arm a: -k is no option of an arm"),
        (["e0", "--arm", "a=aggregated", "--candidate", "disaggregated"], "--arm and --candidate can't be mixed"),
        (["e0", "--arm", "a=aggregated", "--baseline", ""], "--arm and --baseline can't be mixed"),
        (["e0", *THREE, "--against", "none"], "--against none: no arm has that name; there are whole, small, pd"),
        (
            ["e0", "--arm", "a=aggregated", "--arm", "b=aggregated", "--arm", "c=aggregated --dtype half"],
            "a and c differ in what matters: model.dtype: float32 / half (--allow-different model.dtype ",
        ),
        (
            ["e0", "--primary", "ttft.p90"],
            "--primary ttft.p90: a session has 17 samples of it in case p256-c1, and a p90 takes 51; -- --requests=51 ",
        ),
        (["e0", "--pairs", "6", "--looks", "6,8"], "--looks 6,8: its last number is the most pairs there are"),
        (["e0", "--looks", "5,8"], "--looks 5,8: expected rising numbers of pairs from 6 on"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_ab_refuses_bad_input_before_any_session(outputs, sessions, arguments, told):
    refused(run("ab", *arguments), told)
    assert sessions == []
    assert not (outputs / "ab").exists()


@pytest.mark.parametrize("option", [["--looks", "6,many"], ["--pairs", "0"]], ids=" ".join)
def test_ab_refuses_numbers_that_are_none(sessions, option):
    result = run("ab", "e0", *option)
    assert (result.exit_code, sessions) == (2, [])
    assert option[0] in result.stderr


@pytest.mark.parametrize("option", [["--primary", "latency"], ["--allow-different", "dtype"]], ids=" ".join)
def test_ab_refuses_unknown_names_after_the_first_session_at_the_latest(outputs, sessions, option):
    """Metrics may be a plugin's, so only a session knows them; at the end of a night it is too late."""
    result = run("ab", "e0", *option)
    assert result.exit_code == 2
    assert " ".join(option) in result.stderr
    assert len(sessions) <= 1


@pytest.mark.parametrize(
    "option", ["--seed=3", "--run-id=x", "--outputs=y", "--repeats=2", "--serving=aggregated", "--device-groups=0;1"]
)
def test_ab_refuses_pytest_options_that_are_its_own(outputs, sessions, option):
    result = run("ab", "e0", "--pairs", 1, "--", option)
    assert (result.exit_code, sessions) == (2, [])
    assert option.partition("=")[0] in result.stderr


def test_ab_whose_budget_is_spent_says_so_and_goes_on(outputs, sessions):
    """No time at all: each call runs one session."""
    for left in (3, 2, 1):
        result = run("ab", "e0", "--pairs", 2, "--budget", 0)
        assert result.exit_code == 75, result.output
        assert f"{left} are left: call again to go on" in result.stdout
    assert run("ab", "e0", "--pairs", 2, "--budget", 0).exit_code == 0
    assert list(outputs.rglob("verdict.json"))


def test_ab_does_not_judge_what_a_failed_session_left(outputs, sessions, monkeypatch):
    monkeypatch.setattr("context_research.compare.ab.processes.begin", lambda *_: ended(1))
    result = run("ab", "e0")
    assert result.exit_code == 2
    assert "session 1 (baseline) ended with exit status 1 before it began; its log: outputs/ab/" in result.stderr
    assert not list(outputs.rglob("verdict.json"))
