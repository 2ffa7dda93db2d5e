"""scripts/run_gpu_reference.sh on two simulated GPUs: what can be had of it without any."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support.suite import ROOT

SMALL = ["--device-profile", "h200", "--prompt-lengths", "64", "--concurrency", "1", "--requests", "8"]


def test_two_gpus_judge_replicas_against_the_split(tmp_path):
    """One call from end to end; further ones, and what they refuse: tests/fast/studies."""
    out = tmp_path / "out"
    environment = os.environ | {"CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    given = [str(out), "--as-is", "--pairs", "1", "--only", "ab", "--gpus", "2", "--", *SMALL]
    told = subprocess.run(
        ["scripts/run_gpu_reference.sh", *given],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "stage ab: done" in told.stdout
    [record] = [json.loads(path.read_text()) for path in out.glob("ab/*/ab.json")]
    settings = record["plan"]["settings"]
    engines = {
        arm: [(each["role"], each["devices"]) for each in one["serving"]["engines"]] for arm, one in settings.items()
    }
    assert engines == {
        "baseline": [("aggregated", [0]), ("aggregated", [1])],
        "candidate": [("prefill", [0]), ("decode", [1])],
    }
    with tarfile.open(out / "pack" / "reference.tar.xz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("e0_summary.json") for name in names) == 2
    assert f"reference/ab/{record['ab_id']}/verdict.json" in names
