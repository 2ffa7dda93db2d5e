"""benchmarks/studies/overhead on real engines: what it compares, and that it says so. Its figures are no tests."""

import json
import subprocess
import sys

from tests.support.suite import ROOT

SMALL = ("--pairs=5", "--prompt-tokens=64", "--output-tokens=4", "--concurrency=2", "--requests=1", "--max-others=1")


def measured(made, script, *options):
    """What a script of benchmarks/studies/overhead prints, and its JSON."""
    command = [sys.executable, f"benchmarks/studies/overhead/{script}", *options, *SMALL, f"--out={made}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode in (0, 1), ended.stderr  # bars that hold, or that this machine can't show
    return ended.stdout, json.loads(made.read_text())


def test_our_loop_is_held_against_the_bare_one_in_pairs(tmp_path):
    printed, results = measured(tmp_path / "overhead.json", "overhead.py", "--only=bare")
    comparisons = results["comparisons"]
    assert [each["name"] for each in comparisons] == ["throughput", "TTFT p50", "token gap p50"]
    for each in comparisons:
        assert each["load"] == "64 in, 4 out, 2 at a time × 1"
        assert each["ratios"] == [a / b for a, b in zip(each["ours"], each["other"], strict=True)]
        assert len(each["ratios"]) == 5
        assert each["interval_95"][0] <= each["median"] <= each["interval_95"][1]
        assert 0 <= each["client_failed"] <= 5
    late = comparisons[0]["client_failed"]
    assert (f"`client` failed in {late} of 5 pairs" in printed) == (late > 0)


def test_recording_steps_is_held_against_not_recording_them(tmp_path):
    printed, results = measured(tmp_path / "recording.json", "recording.py")
    assert [each["name"] for each in results["comparisons"]] == ["throughput", "token gap p50"]
    for each in results["comparisons"]:
        assert len(each["ratios"]) == 5
        assert (f"`client` failed in {each['client_failed']} of 5 pairs" in printed) == (each["client_failed"] > 0)
    assert all(row["us"] > 0 for row in results["hooks"])
