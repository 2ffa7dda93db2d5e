"""A published trace on a simulated pair of H200s, in both modes, at speed."""

import json
import time

import pytest
import yaml

from tests.support.suite import ROOT

TRACES = [ROOT.parents[up] / "shared" / "traces" / "mooncake_conversation.jsonl" for up in (0, 1)]
TRACE = next((path for path in TRACES if path.is_file()), None)
REPLAY = {
    "experiment": "e0",
    "model": {"name": "Qwen/Qwen3-8B", "weights": "hub", "dtype": "bfloat16"},
    "engine": {"block_size": 256, "max_num_batched_tokens": 8192, "max_num_seqs": 256, "gpu_memory_utilization": 0.9},
    "workload": {
        "arrivals": "replay",
        "trace": {"file": str(TRACE), "seconds": 300, "longest_prompt": 32768},
        "warmup_s": 20,
        "repeats": 1,
    },
}


@pytest.mark.simulated
@pytest.mark.skipif(TRACE is None, reason="Mooncake's trace isn't here")
@pytest.mark.parametrize("mode", ["aggregated-2x", "disaggregated-1p1d"])
def test_five_minutes_of_conversations_take_less_than_five_with_a_report(suite, mode, monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    (suite.path / "replay.yaml").write_text(yaml.safe_dump(REPLAY))
    began = time.perf_counter()
    result = suite.outside(
        *("-m", "simulated", "--seed=0", "--device-profile=h200", "--experiment-config=replay.yaml", "--run-id=mine"),
        f"--serving-config={ROOT}/configs/serving/{mode}.yaml",
        timeout=300,
    )
    assert time.perf_counter() - began < 300
    result.assert_outcomes(passed=1)
    [case] = json.loads((suite.path / "outputs" / "runs" / "mine" / "e0_summary.json").read_text())["cases"]
    assert case["arrivals"]["left_out"] == 82
    assert case["arrivals"]["rate"] == pytest.approx(2.78, abs=0.02)
    assert case["arrivals"]["cv"] == pytest.approx(1.0, abs=0.1)
    assert (suite.path / "outputs" / "reports" / "mine.md").read_text().startswith("# ")
