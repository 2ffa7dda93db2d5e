"""scripts/run_gpu_reference.sh on two simulated GPUs: what can be had of it without any."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support.suite import ROOT

SMALL = ["--device-profile", "h200", "--prompt-lengths", "64", "--concurrency", "1", "--requests", "8"]


def reference(out, *arguments):
    environment = os.environ | {"CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["scripts/run_gpu_reference.sh", str(out), "--as-is", "--pairs", "1", "--only", "ab", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_two_gpus_judge_replicas_against_the_split_and_a_second_call_adds_nothing(tmp_path):
    out = tmp_path / "out"
    told = reference(out, "--gpus", "2", "--", *SMALL)
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

    again = reference(out, "--gpus", "2", "--", *SMALL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(list(out.glob("runs/*"))) == 2

    beside = reference(tmp_path / "beside", "--gpus", "2", "--device-groups", "0,1;2,3", "--", *SMALL)
    assert beside.returncode == 0, beside.stdout + beside.stderr
    [record] = [json.loads(path.read_text()) for path in (tmp_path / "beside").glob("ab/*/ab.json")]
    assert [session["devices"] for session in record["sessions"]] == [[0, 1], [2, 3]]

    other = reference(out, "--gpus", "1", "--", *SMALL)
    assert other.returncode == 2
    assert "other GPUs, cases, pairs or options" in other.stderr


def test_the_whole_of_e0_has_every_case_of_its_file(tmp_path):
    told = reference(tmp_path / "out", "--whole", "--", "--device-profile", "h200", "--requests", "8")
    assert told.returncode == 0, told.stdout + told.stderr
    [summary, _] = sorted((tmp_path / "out").glob("runs/*/e0_summary.json"))
    names = [case["name"] for case in json.loads(summary.read_text())["cases"]]
    assert names == [f"p{length}-c{level}" for length in (1024, 4096, 16384, 32768) for level in (1, 8)]

    two = reference(tmp_path / "two", "--whole", "--gpus", "2")
    assert two.returncode == 2
    assert "e0.yaml is made for one GPU" in two.stderr
    assert not (tmp_path / "two").exists()
