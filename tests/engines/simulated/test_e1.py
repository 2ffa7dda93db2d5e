"""E1 as it is shipped, in whole sessions: a capacity within each set of limits, its row, its figures, its verdict."""

import json
import shutil
import subprocess
import sys

import pytest

from context_research.compare import comparison, verdict
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.summary import SummaryRecord
from tests.support.artifacts import rows_saved
from tests.support.suite import ROOT

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
RATES = "--rates=2,6,18"


@pytest.fixture
def e1(suite):
    shutil.copytree(ROOT / "benchmarks" / "e1", suite.path / "benchmarks" / "e1")

    def run(name, *options):
        given = ("--seed=0", "--device-profile=cpu-2core", "--set=workload.window_s=20", f"--run-id={name}", *options)
        result = suite.inside(*given, folder="benchmarks/e1")
        return result, RunFiles(suite.path / "outputs", name)

    return run


def rows(suite):
    return {row["name"]: row for path in rows_saved(suite.path) for row in json.loads(path.read_text())["benchmarks"]}


def summary(files):
    return store.read(files.summary("e1"), SummaryRecord)


def test_a_run_over_rates_has_a_capacity_within_each_set_of_limits(e1, suite):
    result, files = e1("grid", RATES)
    result.assert_outcomes(passed=3)
    found = summary(files)
    assert [case.axes["rate"] for case in found.cases] == [2.0, 6.0, 18.0]
    loose, tight = found.capacities
    assert (loose.within, tight.within) == ("TTFT 500 ms, TPOT 50 ms at 90%", "TTFT 2 s, TPOT 25 ms at 90%")
    assert [point.due for point in loose.points] == [sum(case.arrivals.due.values()) for case in found.cases]
    assert [point.met for point in tight.points] == [case.attained[1][0] for case in found.cases]
    assert found.cases[-1].overloaded
    assert loose.bound == "exact"
    assert 2.0 < loose.rate < 18.0
    assert rows(suite)[f"capacity {loose.name}"]["stats"]["mean"] == pytest.approx(1 / loose.rate)
    assert "capacity.png" in files.report.read_text()


def test_a_grid_that_does_not_reach_the_knee_has_a_bound_and_no_row(e1, suite):
    result, files = e1("low", "--rates=1,1.5")
    result.assert_outcomes(passed=2)
    loose, _ = summary(files).capacities
    assert loose.bound == "at least"
    assert loose.rate == max(case.arrivals.rate for case in summary(files).cases)
    assert f"capacity {loose.name}" not in rows(suite)


def test_two_runs_are_held_against_each_other_by_capacity(e1):
    runs = []
    for name, mode in (("one", "aggregated"), ("two", "disaggregated")):
        result, files = e1(name, RATES, f"--serving={mode}")
        result.assert_outcomes(passed=3)
        runs.append(comparison.load(files))
    found = verdict.judge(comparison.of_runs(*runs))
    assert {each.pairs.metric for each in found.primary} == {"capacity"}
    assert [each.pairs.case for each in found.primary] == [each.name for each in runs[0].summary.capacities]
    assert all(each.reason == "simulated: not measured, so no verdict" for each in found.primary)


def test_an_ab_whose_rates_end_before_a_capacity_adds_some_and_runs_its_first_pair_again(e1, suite):
    arms = [f"--{arm}=aggregated --set workload.window_s=10" for arm in ("baseline", "candidate")]
    options = ["--device-profile=cpu-2core", "--rates=1,1.5", "--set=slo={ttft: 0.5, tpot: 0.05}"]
    command = [sys.executable, "-m", "context_research.cli", "ab", "e1", *arms, "--", *options]
    told = subprocess.run(command, cwd=suite.path, capture_output=True, text=True, check=True).stdout
    added = (
        "the rates end before a capacity: 2.25, 3.38, 5.06, 7.59 a second are added, and the first pair is run again"
    )
    assert added in told
    (path,) = (suite.path / "outputs" / "ab").glob("*/ab.json")
    record = json.loads(path.read_text())
    assert record["extended"] == 1
    assert record["rates"] == [1, 1.5, 2.25, 3.38, 5.06, 7.59]
    for session in record["sessions"]:
        (found,) = summary(RunFiles(suite.path / "outputs", session["run_id"])).capacities
        assert found.bound == "exact"
        assert len(found.points) == 6
