"""The H200 results in docs/ are what this code makes of the artifacts beside them."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from context_research import cli

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results/h200-e0"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An outputs folder with the runs and the A/B, as docs/results/h200-e0.md says how to make one."""
    folder = tmp_path_factory.mktemp("h200")
    with tarfile.open(RESULTS / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    record = json.loads((RESULTS / "ab.json").read_text())
    kept = folder / "ab" / record["ab_id"]
    kept.mkdir(parents=True)
    (kept / "ab.json").write_bytes((RESULTS / "ab.json").read_bytes())
    return folder


def test_the_verdict_comes_out_again(outputs):
    ab_id = json.loads((RESULTS / "ab.json").read_text())["ab_id"]
    told = CliRunner().invoke(cli.main, ["verdict", ab_id, "--outputs", str(outputs)])
    assert told.exit_code == 0, told.output
    again = json.loads((outputs / "ab" / ab_id / "verdict.json").read_text())
    assert again == json.loads((RESULTS / "verdict.json").read_text())


def test_the_handoff_s_share_comes_out_again_and_is_within_the_bar(outputs):
    made = outputs / "share.json"
    command = [sys.executable, "benchmarks/handoff/share.py", str(outputs), f"--json={made}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    again = json.loads(made.read_text())
    assert again == json.loads((RESULTS / "handoff-share.json").read_text())
    [longest] = [one for one in again if one["case"] == "p32768-c1"]
    assert max(longest["shares"]) <= 0.05


def test_no_run_s_check_failed(outputs):
    checks = [
        check["status"]
        for path in outputs.glob("runs/*/e0_summary.json")
        for case in json.loads(path.read_text())["cases"]
        for check in case["validity"]
    ]
    assert checks
    assert set(checks) == {"pass", "n/a"}
