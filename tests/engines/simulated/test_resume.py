"""A run that ended amid its cases goes on: in the end it is the run that was never interrupted."""

import json
import shutil

import pytest

from tests.support.artifacts import metadata, requests, rows_saved, summary
from tests.support.suite import ROOT, SMALL

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
CPU = ("--seed=0", "--device-profile=cpu-2core", *SMALL, "--concurrency=1,2,3")
LEAVES = """
import pathlib, pytest

@pytest.fixture(autouse=True)
def leave(case):
    if list(case.axes.values())[-1] > LAST and not pathlib.Path("stay").exists():
        pytest.exit("enough")
"""


@pytest.fixture
def stopped(suite):
    """Ends a run before its third case, as a signal does; what it left. From then on it would run to its end."""

    def stop(*options, experiment="e0", last=2):
        path = suite.path / "benchmarks" / experiment / "conftest.py"
        path.write_text(LEAVES.replace("LAST", str(last)))
        suite.inside(*options, "--run-id=mine", folder=f"benchmarks/{experiment}")
        (suite.path / "stay").touch()
        return suite.run

    return stop


def figures(folder):
    """The cases as they were measured, and what they were made of."""
    return summary(folder)["cases"], (folder / "requests.jsonl").read_bytes()


def means(found):
    """Of every metric of every case."""
    return {
        f"{case['name']} {name}": metric["mean"]
        for case in found["cases"]
        for name, metric in case["metrics"].items()
        if metric["count"]
    }


def rows(path):
    """Name of a row -> the samples' mean, as it is kept."""
    return {
        row["fullname"]: pytest.approx(row["stats"]["mean"], abs=2e-7)
        for row in json.loads(path.read_text())["benchmarks"]
    }


@pytest.mark.parametrize("serving", ["aggregated", "disaggregated"])
def test_a_run_that_was_ended_amid_its_cases_becomes_the_one_that_was_not(stopped, suite, serving):
    """By real signals: tests/slow/test_resume.py."""
    folder = stopped(*CPU, f"--serving={serving}")
    assert metadata(folder)["status"] == "interrupted"
    assert [case["name"] for case in summary(folder)["cases"]] == ["p64-c1", "p64-c2"]
    with (folder / "requests.jsonl").open("a") as stream:  # killed as it wrote
        stream.write('{"kind": "repeat", "case": "p64')
    result = suite.inside(*CPU, "--resume=mine", f"--serving={serving}")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(["  mine goes on after 2 of 3 cases"])
    suite.inside(*CPU, "--run-id=whole", f"--serving={serving}").assert_outcomes(passed=3)
    whole = folder.with_name("whole")
    assert figures(folder) == figures(whole)
    assert summary(folder)["requests_file"] == summary(whole)["requests_file"]
    recorded, uncut = metadata(folder), metadata(whole)
    for key in ("status", "cases", "planned", "exit_status", "reason", "settings"):
        assert recorded[key] == uncut[key], key
    assert [one["name"] for one in recorded["engines"]] == [one["name"] for one in uncut["engines"]] * 2
    (resumed,) = recorded["resumed"]
    assert resumed["after"] == "p64-c2"
    assert recorded["started"] <= resumed["stopped"] <= resumed["at"] <= recorded["finished"]
    assert not (folder / ".running").exists()
    report = (suite.path / "outputs" / "reports" / "mine.md").read_text()
    assert "**Resumed: the engines were started anew after p64-c2 (" in report
    *_, mine, other = rows_saved(suite.path)
    assert rows(mine) == rows(other)
    assert len(rows(mine)) > 3


def test_a_run_that_was_killed_after_its_last_case_is_whole(suite):
    suite.inside(*CPU, "--run-id=mine").assert_outcomes(passed=3)
    before = figures(suite.run)
    record = json.loads((suite.run / "run_metadata.json").read_text())
    (suite.run / "run_metadata.json").write_text(json.dumps(record | {"status": "running", "finished": None}))
    result = suite.inside(*CPU, "--resume=mine")
    result.assert_outcomes(deselected=3)
    assert (result.ret, metadata(suite.run)["status"]) == (0, "completed")
    assert figures(suite.run) == before


def test_it_goes_on_as_often_as_it_is_ended(stopped, suite):
    stopped(*CPU, last=1)
    (suite.path / "stay").unlink()
    suite.inside(*CPU, "--resume=mine")
    assert (metadata(suite.run)["status"], len(summary(suite.run)["cases"])) == ("interrupted", 1)
    (suite.path / "stay").touch()
    suite.inside(*CPU, "--resume=mine").assert_outcomes(passed=2, deselected=1)
    assert (metadata(suite.run)["status"], len(metadata(suite.run)["resumed"])) == ("completed", 2)


def test_only_the_same_run_goes_on(stopped, suite):
    folder = stopped(*CPU)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for options, told in (
        (("--output-tokens=5",), "run mine had workload.output_tokens 4, and it is 5 now: *"),
        (("--seed=1",), "run mine had seed 0, and it is 1 now: *"),
        (("--run-id=other",), "--resume and --run-id: *"),
        (("-n2",), "--resume goes on in one process: leave -n (xdist) out"),
        (("-k", "c1"), "run mine had 3 cases, and it would be 2: select the same ones"),
        (("--resume=none",), "no run 'none' in *; the newest is mine"),
    ):
        result = suite.inside(*CPU, "--resume=mine", *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR, options
        result.stderr.fnmatch_lines([f"ERROR: {told}"])
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_capacity_is_over_the_whole_grid(stopped, suite):
    shutil.copytree(ROOT / "benchmarks" / "e1", suite.path / "benchmarks" / "e1")
    given = ("--seed=0", "--device-profile=cpu-2core", "--set=workload.window_s=20", "--rates=2,6,18")
    stopped(*given, experiment="e1", last=6)
    suite.inside(*given, "--resume=mine", folder="benchmarks/e1").assert_outcomes(passed=1, deselected=2)
    suite.inside(*given, "--run-id=whole", folder="benchmarks/e1").assert_outcomes(passed=3)
    mine, whole = (
        json.loads((suite.path / "outputs" / "runs" / name / "e1_summary.json").read_text())
        for name in ("mine", "whole")
    )
    met = [[[point["met"] for point in each["points"]] for each in some["capacities"]] for some in (mine, whole)]
    assert met[0] == met[1] != []
    assert [case["sent_sha256"] for case in mine["cases"]] == [case["sent_sha256"] for case in whole["cases"]]
    # New engines' clock begins at 0 again: windows differ in their last bit, and with them the rates that came.
    assert [each["rate"] for each in mine["capacities"]] == pytest.approx(
        [each["rate"] for each in whole["capacities"]]
    )
    assert means(mine) == pytest.approx(means(whole), rel=1e-9)
    *_, resumed, uncut = rows_saved(suite.path)
    assert rows(resumed) == rows(uncut)
    assert any("capacity" in name for name in rows(resumed))


def test_a_case_that_did_not_pass_is_not_measured_until_it_does(suite):
    test = suite.path / "benchmarks" / "e0" / "test_e0.py"
    test.write_text(test.read_text() + "    assert case.concurrency == 1, 'only one'\n")
    suite.inside(*CPU, "--run-id=mine", "-x").assert_outcomes(passed=1, failed=1)
    before = requests(suite.run)
    result = suite.inside(*CPU, "--resume=mine")
    result.stderr.fnmatch_lines(["ERROR: run mine: its case p64-c2 was measured and is failed: run it anew"])
    assert requests(suite.run) == before
