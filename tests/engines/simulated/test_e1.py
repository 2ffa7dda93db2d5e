"""E1 as it is shipped, in whole sessions: a capacity within each set of limits, its row, its figures, its verdict."""

import json
import shutil

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
    assert (loose.bound, loose.rate) == ("at least", 1.5)
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
