"""E2 as it is shipped, in whole sessions: what its users look at is there."""

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
MODES = ("aggregated", "disaggregated")


@pytest.fixture
def e2(suite):
    shutil.copytree(ROOT / "benchmarks" / "e2", suite.path / "benchmarks" / "e2")

    def run(name, *options):
        given = ("--seed=0", "--device-profile=cpu-2core", f"--run-id={name}", *options)
        result = suite.inside(*given, folder="benchmarks/e2")
        return result, RunFiles(suite.path / "outputs", name)

    return run


def rows(suite):
    """Names of the rows that pytest-benchmark saved."""
    return {row["name"] for path in rows_saved(suite.path) for row in json.loads(path.read_text())["benchmarks"]}


def case(files):
    (found,) = store.read(files.summary("e2"), SummaryRecord).cases
    return found


@pytest.mark.parametrize("mode", MODES)
def test_its_figures_are_there_for_each_class(e2, suite, mode):
    result, files = e2(mode, f"--serving={mode}")
    result.assert_outcomes(passed=1)
    found = case(files)
    assert {check.status for check in found.validity} == {"pass", "n/a"}
    assert {check.check: check.status for check in found.validity}["load"] == "pass"
    assert set(found.arrivals.due) == {"chat", "document"}
    assert found.metrics["ttft"].count == found.metrics["chat.ttft"].count + found.metrics["document.ttft"].count
    assert 0 < found.metrics["chat.attainment"].mean <= 1
    assert {"ttft load", "chat.ttft load", "document.stall load"} <= rows(suite)
    report = files.report.read_text()
    assert "open, 3/s, CV 1 (Poisson)" in report
    assert "document" in report


def test_what_it_can_not_carry_is_overloaded_and_has_no_latency(e2, suite):
    result, files = e2("much", "--set", "workload.rate=20", "--repeats=1")
    result.assert_outcomes(passed=1)
    found = case(files)
    assert found.overloaded
    assert found.metrics["ttft"].p50 is None
    assert found.metrics["chat.attainment"].mean < 0.5
    assert found.metrics["request_rate"].mean > 0
    assert "OVERLOADED" in files.report.read_text()
    assert rows(suite) == {"output_token_time load", "chat.output_token_time load", "document.output_token_time load"}
    assert "overloaded" in comparison.load(files).cases["load"].metrics["ttft"].missing


def test_both_modes_get_the_same_requests_at_the_same_moments(e2):
    sent = {}
    for mode in MODES:
        _, files = e2(mode, f"--serving={mode}", "--repeats=1")
        lines = [json.loads(line) for line in files.requests.read_text().splitlines()]
        begin = next(line for line in lines if line["kind"] == "repeat")["started"]
        requests = [line for line in lines if line["kind"] == "request" and line["phase"] in ("ramp", "measured")]
        sent[mode] = {line["prompt_sha256"]: round(line["scheduled"] - begin, 6) for line in requests}
        assert case(files).sent_sha256
    assert sent["aggregated"] == pytest.approx(sent["disaggregated"], abs=1e-5)
    assert len(sent["aggregated"]) > 50


def test_an_ab_of_overloaded_arms_says_so(e2, suite):
    """Every latency is withheld: there is no verdict, and no error."""
    sides = [e2(mode, f"--serving={mode}", "--set", "workload.rate=20", "--repeats=2")[1] for mode in MODES]
    runs = [comparison.load(files) for files in sides]
    judged = verdict.judge(comparison.of_runs(*runs), primary=("chat.ttft", "attainment"))
    outcomes = {found.pairs.metric: (str(found.outcome), found.reason) for found in judged.primary}
    assert outcomes["chat.ttft"][0] == "None"
    assert all(case(files).overloaded for files in sides)
