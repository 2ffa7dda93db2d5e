"""Reading a run back gives every metric that measuring it gave; what is not what it wrote, or was sent, is refused."""

from dataclasses import replace

import pytest

from context_research.compare import observations
from context_research.measure import metrics
from context_research.measure.metrics import METRICS
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.summary import SummaryRecord
from tests.support import commands

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
SMALL = ("--seed=0", "--device-profile=cpu-2core", "--prompt-lengths=64", "--concurrency=2", "--requests=10")


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_every_metric_comes_out_again(suite, mode):
    options = (f"--serving={mode}", "--repeats=2", "--output-tokens=4", "--set=slo.ttft=0.05", "--run-id=mine")
    suite.inside(*SMALL, *options).assert_outcomes(passed=1)
    files = RunFiles(suite.path / "outputs", "mine")
    (case,) = store.read(files.summary("e0"), SummaryRecord).cases
    again = metrics.summaries(METRICS, observations.read(files)[case.name])
    assert again.keys() == case.metrics.keys()
    known = {name for name, metric in case.metrics.items() if metric.count}
    assert known >= {"ttft", "tpot", "itl", "stall", "e2e", "output_token_time", "goodput"}
    assert ("handoff" in known) == (mode == "disaggregated")
    for name, metric in case.metrics.items():
        for statistic in ("count", "mean", "p50", "p90"):
            # Moments are kept to a tenth of a microsecond.
            value = metric.value(statistic)
            expected = None if value is None else pytest.approx(value, rel=1e-4, abs=3e-7)
            assert again[name].value(statistic) == expected, (name, statistic)


class OtherPrompts:
    """The prompts of a session are others than its seed's, from the first repeat's last request on."""

    def pytest_sessionstart(self):
        from context_research.measure import case

        self._draw, case.requests = case.requests, self._drawn

    def pytest_sessionfinish(self):
        from context_research.measure import case

        case.requests = self._draw

    def _drawn(self, *arguments):
        *kept, last = self._draw(*arguments)
        return [*kept, replace(last, prompt=last.prompt[::-1], sha256=last.sha256[::-1])]


def test_an_arm_that_was_sent_other_requests_is_in_no_comparison(suite):
    few = (*SMALL, "--repeats=1", "--output-tokens=4", "--requests=3")
    suite.inside(*few, "--run-id=one").assert_outcomes(passed=1)
    suite.inside(*few, "--run-id=same", "--serving=disaggregated").assert_outcomes(passed=1)
    suite.inside(*few, "--run-id=other", "--serving=disaggregated", plugins=[OtherPrompts()]).assert_outcomes(passed=1)
    result = commands.run("verdict", "one", "same")
    assert result.exit_code == 0, result.output
    commands.refused(
        commands.run("verdict", "one", "other"), "one and other were sent different requests in case p64-c2"
    )
    gate = suite.inside(*few, "--run-id=gated", "--verdict-against=one")
    told = "ERROR: --verdict-against one: runs of the simulated backend get no verdict, as nothing is measured; *"
    gate.stderr.fnmatch_lines([told])
    assert gate.ret == pytest.ExitCode.USAGE_ERROR
    assert "gated" not in [folder.name for folder in suite.runs], "refused before anything started"


def test_a_run_whose_requests_were_cut_at_a_line_s_end_is_read_by_nobody(suite):
    few = (*SMALL, "--repeats=1", "--output-tokens=4", "--requests=3")
    suite.inside(*few, "--run-id=one").assert_outcomes(passed=1)
    suite.inside(*few, "--run-id=two", "--serving=disaggregated").assert_outcomes(passed=1)
    path = RunFiles(suite.path / "outputs", "one").requests
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    for command in (("report", "one"), ("verdict", "one", "two"), ("verdict", "two")):
        commands.refused(commands.run(*command), "requests.jsonl was cut or changed after the run")
    gate = suite.inside(*few, "--run-id=three", "--verdict-against=one")
    gate.stderr.fnmatch_lines(["ERROR: *requests.jsonl was cut or changed after the run: *"])
