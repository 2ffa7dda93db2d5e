"""The experiment that docs/experiments.md writes, as it stands there."""

import re
from itertools import product

import pytest

from context_research.compare import comparison
from context_research.records.files import RunFiles
from tests.support.suite import ROOT

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]


def test_the_documented_experiment(suite, pytester):
    page = (ROOT / "docs" / "experiments.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    test, *_ = (text for kind, text in blocks if kind == "python")
    settings, axes, *_ = (text for kind, text in blocks if kind == "yaml")
    folder = suite.path / "benchmarks" / "e9"
    folder.mkdir()
    (folder / "test_e9.py").write_text(test)
    (suite.path / "e9.yaml").write_text(settings + axes)

    small = ("--requests=1", "--repeats=1", "--warmup-requests=0", "-k", "p256-c1")
    result = pytester.runpytest_inprocess(
        "benchmarks/e9", "--experiment-config=e9.yaml", "--seed=0", "--device-profile=cpu-2core", "--run-id=e9", *small
    )
    result.assert_outcomes(passed=4, deselected=12)
    assert list(comparison.load(RunFiles(suite.path / "outputs", "e9")).cases) == [
        f"p256-c1-output_tokens_{tokens}-max_num_batched_tokens_{batch}"
        for batch, tokens in product((256, 1024), (16, 64))
    ]
