"""pytest-rerunfailures runs a failed test again: the case's last time counts, and its record says what was before."""

import pytest

from context_research.compare import comparison
from context_research.measure.checks.registry import Check, judged
from context_research.records.files import RunFiles
from tests.support.artifacts import metadata, requests, rows_saved, summary

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
ONE = (
    *("--seed=0", "--device-profile=cpu-2core", "--prompt-lengths=64", "--concurrency=1", "--output-tokens=4"),
    *("--requests=2", "--repeats=1", "--warmup-requests=0"),
)
AGAIN = ("-p", "rerunfailures", "--reruns=2")


class Fails:
    """A check that fails so many times before it passes; and a hook that notes which cases it is told of."""

    def __init__(self, times):
        self.times, self.told = times, []

    def pytest_context_research_checks(self):
        return [Check("luck", self._judge)]

    def _judge(self, _):
        self.times -= 1
        return judged("luck", self.times < 0, "a coin")

    def pytest_context_research_case_finished(self, case):
        self.told.append(case["status"])


def test_a_case_that_passes_when_it_is_run_again_counts_and_says_so(suite):
    fails = Fails(2)
    result = suite.inside(*ONE, *AGAIN, plugins=[fails])
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 passed, *2 rerun*"])
    result.stdout.fnmatch_lines(["p64-c1 was run again, 2 ×: p64-c1: luck: a coin"])
    assert (result.ret, metadata(suite.run)["status"], fails.told) == (0, "completed", ["passed"])
    (case,) = summary(suite.run)["cases"]
    assert (case["status"], case["reruns"]) == ("passed", ["p64-c1: luck: a coin"] * 2)
    assert len(requests(suite.run)) == 2, "the last time's alone"
    assert comparison.load(RunFiles(suite.path / "outputs", suite.run.name))
    assert rows_saved(suite.path)
    report = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert "**Run again after it had failed: p64-c1 2 ×.**" in report


def test_a_case_that_never_passes_is_kept_once(suite):
    result = suite.inside(*ONE, *AGAIN, plugins=[fails := Fails(9)])
    result.assert_outcomes(failed=1)
    (case,) = summary(suite.run)["cases"]
    assert (case["status"], len(case["reruns"]), fails.told) == ("invalid", 2, ["invalid"])
    assert metadata(suite.run)["status"] == "invalid"
    assert not rows_saved(suite.path)


def test_what_a_case_measured_is_kept_if_it_measures_nothing_when_run_again(suite):
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef once(times=[]):\n"
        "    times.append(1)\n    assert len(times) < 2, 'set-up'\n"
    )
    result = suite.inside(*ONE, *AGAIN[:2], "--reruns=1", plugins=[Fails(9)])
    result.assert_outcomes(errors=1)
    (case,) = summary(suite.run)["cases"]
    assert (case["status"], metadata(suite.run)["status"]) == ("invalid", "invalid")


def test_under_xdist_too(suite):
    (suite.path / "conftest.py").write_text(
        (suite.path / "conftest.py").read_text() + "\nfrom tests.engines.simulated.test_rerun import Fails\n\n\n"
        "def pytest_configure(config):\n    if hasattr(config, 'workerinput'):\n"
        "        config.pluginmanager.register(Fails(1))\n    else:\n        config.pluginmanager.register(Fails(0))\n"
    )
    result = suite.inside(*ONE, *AGAIN, "-n", "1")
    result.assert_outcomes(passed=1)
    (case,) = summary(suite.run)["cases"]
    assert (case["status"], len(case["reruns"])) == ("passed", 1)
