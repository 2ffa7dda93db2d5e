"""What a plan refuses, in one line; what it makes of its own options."""

import pytest
from click.testing import CliRunner

from context_research.cli.main import main
from context_research.settings.options import SIMULATED_OPT_IN

GPUS = ("--device-profile=h200", "--devices=2")
REFUSED = {
    "a CPU": (["--device-profile=cpu-2core", "--devices=2"], "a plan is for GPUs, and that is a CPU"),
    "more than there are": (["--device-profile=h200", "--devices=9"], "--devices 9: the profile h200 has 8 GPUs"),
    "an unknown profile": (["--device-profile=h2", "--devices=2"], "unknown device profile 'h2'"),
    "limits that are none": ([*GPUS, "--slo=2"], "2: expected limits in seconds such as ttft=2,tpot=0.05"),
    "an unknown limit": ([*GPUS, "--slo=tpt=2"], "tpt"),
    "chunks that are none": ([*GPUS, "--chunks=a,b"], "a,b: expected numbers such as 2048,4096,8192"),
    "one chunk size twice": ([*GPUS, "--chunks=64,64"], "--chunks 64,64: expected numbers of tokens that differ"),
    "a closed loop": (["e0", *GPUS], "e0's load is closed, and rates are an open load's"),
    "no limits": (
        ["e2", *GPUS, "--", "--set=workload.classes={}", "--prompt-lengths=64"],
        "an SLO without limits is missed at no rate",
    ),
    "TPOT alone": ([*GPUS, "--slo=tpot=0.05"], "limits without ttft or e2e are met by whoever lets requests wait"),
    "several loads": ([*GPUS, "--", "--prompt-lengths=64,128"], "for one load, give --prompt-lengths one value"),
    "no such file": ([*GPUS, "--workload=nowhere.yaml"], "cannot read nowhere.yaml"),
}


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv(SIMULATED_OPT_IN, "1")


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_is_refused_in_one_line(case):
    given, told = REFUSED[case]
    result = CliRunner().invoke(main, ["plan", *given])
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert "Traceback" not in result.output


def test_it_has_to_be_allowed(monkeypatch):
    monkeypatch.delenv(SIMULATED_OPT_IN)
    result = CliRunner().invoke(main, ["plan", *GPUS])
    assert result.exit_code == 2
    assert f"it needs {SIMULATED_OPT_IN}=1" in result.output
