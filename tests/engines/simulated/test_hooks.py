"""What a plugin can add, each by its hook: seen in the artifacts, rows and report of a simulated run."""

import json

import pytest

from context_research.measure.checks.registry import Check, judged
from context_research.measure.metrics import Metric, e2e
from context_research.report.sections import Section
from context_research.settings.experiments import Experiment
from context_research.workload.arrivals import closed
from tests.support.artifacts import metadata, requests, summary

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
TINY = ("--seed=0", "--device-profile=cpu-2core", "--prompt-lengths=64", "--concurrency=2", "--output-tokens=4")
ONE = (*TINY, "--requests=4", "--repeats=1", "--warmup-requests=0")


class Adds:
    """A plugin that has the hooks it is given: name without prefix -> function."""

    def __init__(self, **hooks):
        for name, function in hooks.items():
            setattr(self, f"pytest_context_research_{name}", function)


def case(folder):
    (only,) = summary(folder)["cases"]
    return only


def test_an_experiment(suite):
    folder = suite.path / "elsewhere"
    folder.mkdir()
    (suite.path / "benchmarks" / "e0" / "test_e0.py").rename(folder / "test_e0.py")
    plugin = Adds(experiments=lambda: [Experiment("e0", folder)])
    result = suite.inside(*ONE, str(folder), plugins=[plugin])
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["context-research: SIMULATED, no engine runs: e0, aggregated, *"])


def test_a_metric(suite):
    plugin = Adds(
        metrics=lambda settings: [
            Metric(
                "per_token", "s", lambda repeat: [e2e(t) / settings.workload.output_tokens for t in repeat.timelines]
            )
        ]
    )
    suite.inside(*ONE, plugins=[plugin]).assert_outcomes(passed=1)
    figures = case(suite.run)["metrics"]
    assert figures["per_token"]["count"] == 4
    assert figures["per_token"]["mean"] == pytest.approx(figures["e2e"]["mean"] / 4)
    (saved,) = (suite.path / ".benchmarks").glob("*/*.json")
    assert [row for row in json.loads(saved.read_text())["benchmarks"] if row["name"] == "per_token p64-c2"]


def test_a_metric_that_is_no_number_costs_the_case_nothing_else(suite):
    plugin = Adds(metrics=lambda: [Metric("mine", "s", lambda _: [float("nan")])])
    suite.inside(*ONE, plugins=[plugin]).assert_outcomes(passed=1)
    assert metadata(suite.run)["status"] == "completed"
    figures = case(suite.run)["metrics"]
    assert figures["ttft"]["count"] == 4
    assert figures["mine"]["missing"] == "1 of 1 samples are no number (nan)"
    report = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert "**p64-c2** has none: 1 of 1 samples are no number (nan)" in report


def test_a_metric_whose_name_is_taken_is_refused(suite):
    plugin = Adds(metrics=lambda: [Metric("ttft", "s", lambda _: [])])
    result = suite.inside(*ONE, plugins=[plugin])
    result.stderr.fnmatch_lines(["ERROR: metric 'ttft': there are two of this name"])


@pytest.mark.parametrize("good", [True, False])
def test_a_check(suite, good):
    check = Check("mine", lambda evidence: judged("mine", good, f"{evidence.asked} requests"))
    suite.inside(*ONE, plugins=[Adds(checks=lambda: [check])]).assert_outcomes(passed=int(good), failed=int(not good))
    found = case(suite.run)
    assert found["validity"][-1] == {
        "check": "mine",
        "status": "pass" if good else "fail",
        "evidence": "4 requests",
        "allowed": False,
    }
    assert found["status"] == ("passed" if good else "invalid")
    assert bool(list((suite.path / ".benchmarks").glob("*/*.json"))) == good


def test_a_check_that_may_fail(suite):
    check = Check("mine", lambda _: judged("mine", False, "it failed"))
    suite.inside(*ONE, "--allow-invalid=mine", plugins=[Adds(checks=lambda: [check])]).assert_outcomes(passed=1)
    assert case(suite.run)["validity"][-1]["allowed"]


def test_arrivals(suite):
    sent = []

    async def spaced(requests, case, serve):
        sent.append((len(requests), case.concurrency))
        await closed(requests, case, serve)

    plugin = Adds(arrivals=lambda: {"spaced": spaced})
    suite.inside(*ONE, "--set=workload.arrivals=spaced", plugins=[plugin]).assert_outcomes(passed=1)
    assert sent == [(0, 2), (2 + 4 + 1, 2)]  # no warm-up; ramp, measured and drain
    assert metadata(suite.run)["settings"]["workload"]["arrivals"] == "spaced"


def test_arrivals_that_nobody_has_are_refused(suite):
    result = suite.inside(*ONE, "--set=workload.arrivals=steady")
    result.stderr.fnmatch_lines(
        ["ERROR: *workload.arrivals: no arrivals are called 'steady'; one of closed, open, replay"]
    )
    assert not (suite.path / "outputs").exists()


def test_an_engine(suite):
    class Wrapped:
        """A wrapper: what it does not change, the engine itself does."""

        def __init__(self, engine):
            self._engine = engine

        def __getattr__(self, name):
            return getattr(self._engine, name)

        def describe(self):
            return self._engine.describe() | {"note": "wrapped"}

    @pytest.hookimpl(wrapper=True)
    def wrapping(placement):
        return Wrapped((yield)) if placement.spec.role == "decode" else (yield)

    suite.inside(*ONE, "--serving=disaggregated", plugins=[Adds(make_engine=wrapping)]).assert_outcomes(passed=1)
    assert [engine.get("note") for engine in metadata(suite.run)["engines"]] == [None, "wrapped"]


def test_a_section_of_the_report(suite):
    def sections(run_folder):
        return [Section("Mine", f"{len(requests(run_folder))} requests were sent.")]

    result = suite.inside(*ONE, plugins=[Adds(report_sections=sections)])
    result.assert_outcomes(passed=1)
    report = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert report.endswith("\n\n## Mine\n\n7 requests were sent.\n")


def test_a_section_that_can_not_be_made_costs_no_report(suite):
    def sections():
        raise KeyError("nothing there")

    suite.inside(*ONE, plugins=[Adds(report_sections=sections)]).assert_outcomes(passed=1)
    report = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert report.endswith("They could not be made: KeyError: 'nothing there'\n")


def test_a_fact_about_the_site(suite):
    plugin = Adds(manifest=lambda manifest: manifest.update(rack="7"))
    suite.inside(*ONE, plugins=[plugin]).assert_outcomes(passed=1)
    assert metadata(suite.run)["environment_manifest"]["rack"] == "7"


def test_what_happens_after_a_case_and_after_a_run(suite):
    seen = []

    def case_finished(case, run_folder):
        seen.append(("case", case["name"], len(requests(run_folder)), (run_folder / "e0_summary.json").is_file()))

    def run_finished(run_folder, session):
        seen.append(("run", metadata(run_folder)["status"]))
        session.exitstatus = 7

    result = suite.inside(*ONE, plugins=[Adds(case_finished=case_finished, run_finished=run_finished)])
    assert seen == [("case", "p64-c2", 7, True), ("run", "completed")]
    assert result.ret == 7
    assert metadata(suite.run)["exit_status"] == 7
