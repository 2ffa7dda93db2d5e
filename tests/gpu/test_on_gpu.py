"""E0 on a CUDA machine: real runs of Qwen3-8B's shape in both modes, on one GPU, and one over the wrong transport."""

import json
import os
import subprocess
import sys

import pytest

from context_research.hardware.devices import visible_gpus
from tests.support.suite import ROOT

KV_BYTES_PER_TOKEN = 147_456
"""2 (K, V) × 36 layers × 8 KV heads × 128 × 2 bytes."""
SMALL = (
    "--weights=seeded",
    "--requests=4",
    "--repeats=1",
    "--output-tokens=16",
    "--set=engine.enforce_eager=true",
    "--seed=0",
)


class Run:
    """One session in a process of its own, and its artifacts."""

    def __init__(self, outputs, *options, **environment):
        self.folder = outputs / "runs" / f"run-{len(list(outputs.glob('runs/*')))}"
        own = (f"--outputs={outputs}", f"--run-id={self.folder.name}", f"--benchmark-storage=file://{outputs}/rows")
        self.process = subprocess.run(
            [sys.executable, "-m", "pytest", "benchmarks/e0", *SMALL, *own, *options],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def read(self, name):
        return json.loads((self.folder / name).read_text())

    @property
    def cases(self):
        return {case["name"]: case for case in self.read("e0_summary.json")["cases"]}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def aggregated(outputs):
    return Run(outputs, "--serving=aggregated", "--prompt-lengths=1024,4096", "--concurrency=1,4")


@pytest.fixture(scope="module")
def disaggregated(outputs, aggregated):
    """After the aggregated run, whose parity reference it is held against."""
    return Run(outputs, "--serving=disaggregated", "--prompt-lengths=1024,4096", "--concurrency=1,4")


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_a_run_completes_and_no_check_fails(request, mode):
    run = request.getfixturevalue(mode)
    assert run.process.returncode == 0, run.process.stdout[-3000:]
    assert run.read("run_metadata.json")["status"] == "completed"
    failed = [check for case in run.cases.values() for check in case["validity"] if check["status"] == "fail"]
    assert len(run.cases) == 4
    assert failed == []


def test_the_kv_crosses_inside_the_gpu(disaggregated):
    for case in disaggregated.cases.values():
        evidence = {check["check"]: check for check in case["validity"]}
        assert evidence["transport"]["status"] == "pass"
        assert "cuda_ipc" in evidence["transport"]["evidence"]
        prompts = case["tokens"]["prompt"]
        assert case["tokens"]["prompt_external"] == prompts
        assert case["handoff"]["bytes"] >= prompts * KV_BYTES_PER_TOKEN


def test_both_modes_are_held_against_the_same_reference(aggregated, disaggregated):
    for run in (aggregated, disaggregated):
        assert all(
            check["status"] == "pass"
            for case in run.cases.values()
            for check in case["validity"]
            if check["check"] == "parity"
        )
    assert len(list((disaggregated.folder.parent.parent / "references").glob("*.json"))) == 4


def test_the_manifest_names_the_gpu_its_limits_and_the_transport_libraries(disaggregated):
    manifest = disaggregated.read("run_metadata.json")["environment_manifest"]
    gpu = manifest["machine"]["gpus"][0]
    assert gpu["name"].startswith("NVIDIA")
    assert gpu["memory_bytes"] > 30 * 2**30
    assert gpu["power_limit_w"] > 50
    assert 0 < gpu["sm_clock_mhz"] <= gpu["sm_clock_max_mhz"]
    assert manifest["machine"]["driver"]
    assert manifest["versions"]["ucx"]
    assert manifest["versions"]["nixl"]


def test_energy_is_between_nothing_and_the_power_limit(aggregated):
    gpu = aggregated.read("run_metadata.json")["environment_manifest"]["machine"]["gpus"][0]
    for case in aggregated.cases.values():
        per_token = case["metrics"]["energy_per_output_token"]["mean"]
        assert case["joules"] > 0
        assert case["joules"] <= 1.5 * gpu["power_limit_w"] * case["whole"]["seconds"] + 100, "a counter steps in 0.1 s"
        assert per_token == pytest.approx(case["joules"] / case["tokens"]["output"])


def test_batch_invariant_kernels_leave_no_near_tie_where_no_prompt_is_cut(outputs):
    """bfloat16, eight in flight: sampled outputs equal to the last of 64 tokens, which chunks of 8,192 did not give."""
    given = ("--prompt-lengths=8192", "--concurrency=8", "--output-tokens=64", "--set=engine.batch_invariant=true")
    run = Run(outputs, "--serving=aggregated", *given, "--set=engine.max_num_batched_tokens=131072")
    assert run.process.returncode == 0, run.process.stdout[-3000:]
    assert run.read("run_metadata.json")["engines"][0]["environment"]["VLLM_BATCH_INVARIANT"] == "1"
    (case,) = run.cases.values()
    (parity,) = [check for check in case["validity"] if check["check"] == "parity"]
    assert parity["status"] == "pass"
    assert "near-tie" not in parity["evidence"]


def test_kv_over_tcp_fails_the_transport_check(outputs):
    run = Run(
        outputs,
        "--serving=disaggregated",
        "--prompt-lengths=4096",
        "--concurrency=1",
        UCX_TLS="tcp,cuda_copy,self",  # …GET_ZCOPY=off was not enough on a machine with NVLinks (docs/handoff.md)
    )
    assert run.process.returncode == 1, run.process.stdout[-3000:]
    assert run.read("run_metadata.json")["status"] == "invalid"
    (case,) = run.cases.values()
    assert [check["check"] for check in case["validity"] if check["status"] == "fail"] == ["transport"]


@pytest.mark.skipif(len(visible_gpus()) < 2, reason="fewer than two GPUs here, which a handoff from GPU to GPU needs")
def test_the_kv_crosses_from_gpu_to_gpu(outputs):
    run = Run(outputs, "--serving=disaggregated-1p1d", "--prompt-lengths=4096", "--concurrency=1")
    assert run.process.returncode == 0, run.process.stdout[-3000:]
    assert [engine["devices"] for engine in run.read("run_metadata.json")["engines"]] == [[0], [1]]
    (case,) = run.cases.values()
    (transport,) = [check for check in case["validity"] if check["check"] == "transport"]
    assert transport["status"] == "pass"
    assert "cuda_ipc" in transport["evidence"]
    assert case["tokens"]["prompt_external"] == case["tokens"]["prompt"]


def test_what_does_not_fit_is_refused_before_an_engine_starts(outputs):
    run = Run(outputs, "--serving=disaggregated", "--prompt-lengths=32768", "--concurrency=64", "--requests=64")
    assert run.process.returncode == 4
    assert not run.folder.exists()
    assert "KV cache too small on engine prefill: 64 × (32768 prompt" in run.process.stderr
