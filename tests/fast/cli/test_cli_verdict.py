"""`verdict` and `report` of A/Bs and pairs of runs: made by hand, bad input in one line."""

import os

import pytest

from tests.support import made_runs
from tests.support.artifacts import plain
from tests.support.commands import refused, run
from tests.support.made_runs import CASE

pytestmark = pytest.mark.usefixtures("here")
AA = {"baseline": "aggregated", "candidate": "aggregated"}


@pytest.fixture
def outputs(here):
    return here / "outputs"


def two_runs(outputs, ratio=1.0, count=6, **values):
    scatter = [1 + 0.001 * index for index in range(count)]
    one, other = (
        {CASE: {"ttft": [0.1 * scale * each for each in scatter], "tpot": [0.01 * scale * each for each in scatter]}}
        for scale in (1, ratio)
    )
    made_runs.run(outputs, "r1", one, started="2026-11-23T10:00:00")
    made_runs.run(outputs, "r2", other, started="2026-11-23T11:00:00", serving="disaggregated", **values)


@pytest.mark.parametrize("name", ["ab1", "latest", "outputs/ab/ab1"])
def test_the_verdict_of_an_ab_is_shown_and_kept(outputs, name):
    files = made_runs.A_B(outputs, ratio=1.3)
    result = run("verdict", name)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "disaggregated (1P1D) against aggregated (1 engine), 6 pairs: TTFT worse, by 31 %." in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["report", "outputs/reports/ab1.md"]
    kept = plain(files.verdict, "verdict")
    assert [entry["outcome"] for entry in kept["primary"]] == ["worse"] * 6  # each median, and its p90 and p99
    assert files.report.is_file()


def test_the_verdict_of_two_runs(outputs):
    two_runs(outputs, 1.5)
    result = run("verdict", "r1", "r2")
    assert result.exit_code == 0, result.output
    assert "TTFT worse, by 50 %. TTFT p90 worse, by 50 %." in result.stdout
    assert "report  outputs/reports/r2-vs-r1.md" in result.stdout
    assert not (outputs / "ab").exists()


def test_one_run_is_held_against_the_newest_of_another_mode(outputs):
    two_runs(outputs)
    result = run("verdict", "r2")
    assert result.exit_code == 0, result.output
    assert "outputs/reports/r2-vs-r1.md" in result.stdout


@pytest.mark.parametrize(
    ("ratio", "options", "code"),
    [
        (1.5, ["--fail-on", "worse"], 1),
        (1.5, [], 0),
        (0.6, ["--fail-on", "worse"], 0),
        (1.0, ["--fail-on", "worse"], 0),
    ],
    ids=["worse", "worse but not asked", "better", "alike"],
)
@pytest.mark.parametrize("kind", ["A/B", "runs"])
def test_fail_on_worse_is_in_the_exit_code(outputs, ratio, options, code, kind):
    if kind == "A/B":
        made_runs.A_B(outputs, ratio=ratio)
    else:
        two_runs(outputs, ratio)
    result = run("verdict", *(["ab1"] if kind == "A/B" else ["r1", "r2"]), *options)
    assert result.exit_code == code, result.output
    assert "report  " in result.stdout


def test_an_slo_that_every_request_misses_fails_the_gate(outputs):
    served = {made_runs.CASE: {"goodput": [2.49, 2.47, 2.51, 2.5, 2.48, 2.49]}}
    missed = {made_runs.CASE: {"goodput": [0.0] * 6}}
    made_runs.run(outputs, "r1", served)
    made_runs.run(outputs, "r2", missed, serving="disaggregated")
    result = run("verdict", "r1", "r2", "--primary", "goodput", "--fail-on", "worse")
    assert (result.exit_code, "goodput worse, by 100 %." in result.stdout) == (1, True)
    assert "the differences are judged" in (outputs / "reports" / "r2-vs-r1.md").read_text()


def test_runs_of_different_slos_are_not_compared(outputs):
    made_runs.run(outputs, "r1", changes={"settings.slo": {"ttft": 0.5, "tpot": None}})
    made_runs.run(outputs, "r2", serving="disaggregated")
    refused(run("verdict", "r1", "r2"), "differ in what matters: slo: {'ttft': 0.5} / {} (--allow-different slo ")


def test_simulated_runs_pass_no_gate(outputs):
    made_runs.A_B(outputs, ratio=3.0, changes={arm: {"backend": "simulated"} for arm in made_runs.MODES})
    told = run("verdict", "ab1")
    assert told.exit_code == 0
    assert (
        "SIMULATED, no verdict: disaggregated (1P1D) against aggregated (1 engine), 6 pairs: TTFT × 3.0" in told.stdout
    )
    gate = run("verdict", "ab1", "--fail-on", "worse")
    assert gate.exit_code == 2
    assert gate.stderr == "ERROR: --fail-on worse: these runs were simulated and get no verdict: compare real ones\n"


def test_undecided_fails_nothing(outputs):
    made_runs.A_B(outputs, ratio=3.0, pairs=5)
    result = run("verdict", "ab1", "--fail-on", "worse")
    assert result.exit_code == 0
    assert "undecided" in result.stdout


def test_the_family_and_what_is_practical_can_be_named(outputs):
    files = made_runs.A_B(outputs, ratio=1.02, noise=0.001)
    assert run("verdict", "ab1", "--primary", "ttft.p90", "--practical", "1%").exit_code == 0
    kept = plain(files.verdict, "verdict")
    assert [(entry["statistic"], entry["outcome"]) for entry in kept["primary"]] == [("p90", "worse"), ("p99", "worse")]
    assert (kept["practical"], kept["named_beforehand"]) == (0.01, False)


def test_a_family_that_the_plan_named_was_named_beforehand(outputs):
    files = made_runs.A_B(outputs, primary=["tpot"])
    assert run("verdict", "ab1").exit_code == run("verdict", "ab1", "--primary", "tpot").exit_code == 0
    assert plain(files.verdict, "verdict")["named_beforehand"] is True
    assert run("verdict", "ab1", "--primary", "ttft").exit_code == 0
    assert plain(files.verdict, "verdict")["named_beforehand"] is False


def test_an_aa_is_a_noise_floor(outputs):
    made_runs.A_B(outputs, ratio=1.3)
    made_runs.A_B(outputs, ratio=1.3, ab_id="aa", arms=AA)
    result = run("verdict", "ab1", "aa", "--fail-on", "worse")
    assert result.exit_code == 0
    assert "the A/A differs too" in " ".join(result.stdout.split())


def test_start_noise_is_the_users(outputs):
    two_runs(outputs, 1.05)
    assert run("verdict", "r1", "r2", "--fail-on", "worse").exit_code == 0
    assert run("verdict", "r1", "r2", "--fail-on", "worse", "--start-noise", "0").exit_code == 1


def test_a_difference_can_be_allowed_and_is_shown(outputs):
    two_runs(outputs, changes={"settings.model.dtype": "bfloat16"})
    refused(run("verdict", "r1", "r2"), "model.dtype: float32 / bfloat16")
    assert run("verdict", "r1", "r2", "--allow-different", "model.dtype").exit_code == 0
    assert "was allowed to" in (outputs / "reports" / "r2-vs-r1.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name an A/B, or two runs"),
        (["a", "b", "c"], "name an A/B, or two runs"),
        (["none"], "no run 'none' in outputs; the newest is "),
        (["ab1", "none"], "no run 'none' in outputs"),
        (["ab1", "r1"], "give two runs, or an A/B and an A/A"),
        (["r1", "ab1"], "give two runs, or an A/B and an A/A"),
        (["ab1", "other"], "other is no A/A: its arms differ"),
        (["ab1", "ab1"], "ab1 is no A/A"),
        (["r1", "r1"], "r1"),
        (["r1"], "no completed run of e0 in another mode is older than r1"),
        (["ab1", "--allow-different", "seed"], "are for two runs"),
        (["ab1", "--start-noise", "5%"], "are for two runs"),
        (["r1", "r2", "--allow-different", "dtype"], "--allow-different dtype: unknown; one of model.name"),
        (["ab1", "--primary", "latency"], "--primary latency: no such figure in ab1; metrics: ttft, tpot;"),
        (["r1", "r2", "--primary", "ttft.p42"], "--primary ttft.p42: no such figure in r2-vs-r1"),
        (["ab1", "--primary", ""], "--primary"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_nothing_is_written(outputs, arguments, told):
    two_runs(outputs)
    made_runs.A_B(outputs)
    made_runs.A_B(outputs, ab_id="other")
    refused(run("verdict", *arguments), told)
    assert not (outputs / "reports").exists()
    assert not list(outputs.rglob("verdict.json"))


@pytest.mark.parametrize(
    "options", [["--practical", "much"], ["--practical", "200%"], ["--start-noise", "-1"], ["--fail-on", "better"]]
)
def test_a_bad_option_is_named(outputs, options):
    result = run("verdict", "ab1", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("which", "text", "told"),
    [
        ("ab1/ab.json", "{", "ab.json: corrupt, no valid JSON"),
        ("ab1/ab.json", '{"schema_version": 4}', "ab.json has schema version 4, this version reads 3: upgrade"),
        ("ab1/ab.json", '{"schema_version": 1}', "ab.json is corrupt or from another version"),
    ],
    ids=["corrupt", "from the future", "another shape"],
)
@pytest.mark.parametrize("command", ["verdict", "report"])
def test_a_record_that_cannot_be_read_is_named(outputs, which, text, told, command):
    made_runs.A_B(outputs)
    (outputs / "ab" / which).write_text(text)
    refused(run(command, "ab1"), told)


def test_requests_that_are_missing_are_named_and_leave_no_report(outputs):
    made_runs.A_B(outputs)
    (outputs / "runs" / "ab1-00-baseline" / "requests.jsonl").unlink()
    refused(run("verdict", "ab1"), "cannot read outputs/runs/ab1-00-baseline/requests.jsonl: No such file")
    assert not (outputs / "reports" / "ab1.md").exists()


def test_an_ab_without_a_pair_is_told(outputs):
    files = made_runs.A_B(outputs, pairs=1)
    made_runs.edit(files.record, "ab", sessions__0__status="failed")
    refused(run("verdict", "ab1"), "A/B ab1 has no finished pair yet")


@pytest.mark.parametrize("name", ["ab1", "latest"])
def test_report_of_an_ab(outputs, name):
    files = made_runs.A_B(outputs)
    os.utime(files.record, (4e9, 4e9))
    result = run("report", name)
    assert (result.exit_code, result.stdout.strip()) == (0, "outputs/reports/ab1.md")
    assert files.report.read_text().startswith("# e0: disaggregated (1P1D) against aggregated (1 engine)")
