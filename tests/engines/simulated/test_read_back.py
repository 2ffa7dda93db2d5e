"""Reading a run back gives every metric that measuring it gave."""

import pytest

from context_research.compare import observations
from context_research.measure import metrics
from context_research.measure.metrics import METRICS
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.summary import SummaryRecord

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
