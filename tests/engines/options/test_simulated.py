"""--device-profile, --backend=simulated and -m simulated: only where allowed, and every refusal in one line."""

import importlib.util

import pytest

from context_research.errors import UsageProblem
from tests.support.machine import profile
from tests.support.suite import SMALL

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
FLAG = "CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND"
ASKED = {"backend": "--backend=simulated", "profile": "--device-profile=h200", "marker": "-msimulated"}
QWEN = ("--model-name=Qwen/Qwen3-8B", "--dtype=bfloat16")


@pytest.fixture
def allowed(suite, monkeypatch):
    monkeypatch.setenv(FLAG, "1")
    return suite


def refused(suite, line, *options):
    result = suite.inside("--seed=0", *SMALL, *options)
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert not list(suite.path.rglob("run_metadata.json"))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("value", [None, "", "0", "true", "yes"])
def test_the_flag_must_be_exactly_one(suite, monkeypatch, asked, value):
    if value is not None:
        monkeypatch.setenv(FLAG, value)
    told = f" (it is '{value}')" if value else ""
    refused(suite, f"backend simulated makes no measurement: it needs {FLAG}=1, exactly{told}", ASKED[asked])


REFUSED = {
    "the real backend with a profile": (
        ["--backend=vllm", "--device-profile=h200"],
        "a device profile is for the simulated backend: leave --device-profile or --backend out",
    ),
    "unknown profile": (
        ["--device-profile=h2000"],
        "unknown device profile 'h2000': choose from a100-40gb, *cpu-2core, *, or name a YAML file*",
    ),
    "missing file": (["--device-profile=no.yaml"], "cannot read no.yaml: No such file or directory"),
    "wrong key": (["--device-profile=typo.yaml"], "typo.yaml: speed: Extra inputs are not permitted, got 9"),
    "wrong value": (["--device-profile=value.yaml"], "value.yaml: count: *greater than 0, got 0"),
    "another device": (
        ["--device-profile=cpu-2core", "--device=cuda"],
        "device cuda, but device profile cpu-2core is of a cpu",
    ),
    "too large a load": (
        ["--device-profile=a100-40gb", *QWEN, "--prompt-lengths=32768", "--concurrency=8", "--requests=17"],
        "KV cache too small on engine aggregated: 8 × (32768 prompt + 4 output tokens)*the pool is 17.* GiB beside*",
    ),
    "a handoff between tensor-parallel engines": (
        ["--device-profile=h100", *QWEN, "--serving=disaggregated", "--devices=0,1,2,3"],
        "engine prefill would get GPUs [[]0, 1[]]: a handoff between tensor-parallel engines is not part of*",
    ),
    "a model without step times": (
        ["--device-profile=cpu-2core", "--weights=dummy"],
        "device profile cpu-2core has no step times for tiny-qwen3 dummy:*",
    ),
    "a GPU that the profile has not": (
        ["--device-profile=h100", *QWEN, "--devices=99"],
        "devices [[]99[]] are not here: the GPUs of this machine are *",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line(allowed, case):
    profile(allowed.path / "typo.yaml", speed=9)
    profile(allowed.path / "value.yaml").write_text(
        (allowed.path / "value.yaml").read_text().replace("count: 2", "count: 0")
    )
    options, line = REFUSED[case]
    refused(allowed, line, *options)


def test_a_missing_vllm_is_named_even_with_the_flag(allowed, monkeypatch):
    real = importlib.util.find_spec
    for module in ("vllm", "simulated"):
        monkeypatch.setattr(
            f"context_research.backends.{module}.find_spec", lambda name: None if name == "vllm" else real(name)
        )
    line = "vLLM is not installed: run ./scripts/bootstrap.sh*; the simulated backend runs its scheduler"
    refused(allowed, line, "--device-profile=cpu-2core")
    refused(allowed, line)


@pytest.fixture
def broken(monkeypatch):
    """The real backend can't start."""

    def check(_):
        raise UsageProblem("no engine today")

    monkeypatch.setattr("context_research.backends.vllm.VllmBackend.check", check)


def test_with_the_flag_auto_simulates_where_the_real_backend_cannot_start(allowed, broken):
    result = allowed.inside("--seed=0", *SMALL, "--prompt-lengths=256")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["context-research: SIMULATED, no engine runs (the real one cannot: no engine today): e0, aggregated, *"]
    )


def test_without_the_flag_it_is_an_error(suite, broken):
    refused(suite, "no engine today")


def test_the_real_backend_by_name_never_falls_back(allowed, broken):
    refused(allowed, "no engine today", "--backend=vllm")


def test_the_flag_alone_simulates_nothing(allowed):
    result = allowed.inside("--seed=0", *SMALL, "--collect-only")
    result.stdout.fnmatch_lines(["context-research: e0, aggregated, backend vllm, device cpu, *"])


def test_simulated_cases_are_selected_by_their_marker(allowed):
    options = ("--seed=0", *SMALL, "--prompt-lengths=256")
    allowed.inside(*options, "--device-profile=cpu-2core", "-msimulated").assert_outcomes(passed=2)
    allowed.inside(*options, "--device-profile=cpu-2core", "-mcpu").assert_outcomes(deselected=2)
    result = allowed.inside(*options, "-msimulated")
    result.assert_outcomes(deselected=2)
    result.stdout.fnmatch_lines(["*none of the 2 cases is selected by -m 'simulated'*; --device-profile simulates"])
