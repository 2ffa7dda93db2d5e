"""The simulated backend is deterministic: what a run of either mode leaves is kept, and must not move by a digit.

`CONTEXT_RESEARCH_GOLDEN=write pytest tests/…/test_golden.py` writes the files anew: for a change that is meant to.
"""

import json
import os
import re
from pathlib import Path

import pytest

from context_research.compare import comparison, verdict
from context_research.records.files import RunFiles

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
GOLDEN = Path(__file__).parent / "golden"
OPTIONS = (
    "--seed=0",
    "--device-profile=cpu-2core",
    "--prompt-lengths=256",
    "--concurrency=1,2",
    "--requests=3",
    "--repeats=2",
    "--output-tokens=4",
    "--warmup-requests=1",
)
WRITES = os.environ.get("CONTEXT_RESEARCH_GOLDEN") == "write"
MODES = ("aggregated", "disaggregated")


def test_what_a_run_leaves_does_not_move(suite):
    left = {}
    for mode in MODES:
        suite.inside(*OPTIONS, f"--serving={mode}", f"--run-id={mode}").assert_outcomes(passed=2)
        files = RunFiles(suite.path / "outputs", mode)
        left[f"{mode}/e0_summary.json"] = files.summary("e0").read_text()
        left[f"{mode}/requests.jsonl"] = files.requests.read_text()
        left[f"{mode}/report.md"] = lasting(files.report.read_text())
    runs = [comparison.load(RunFiles(suite.path / "outputs", mode)) for mode in MODES]
    judged = verdict.judge(comparison.of_runs(*runs)).record().model_dump(mode="json")
    left["verdict.json"] = json.dumps(judged, indent=1) + "\n"
    for name, text in left.items():
        if WRITES:
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_text(text)
        assert (GOLDEN / name).read_text() == text, name


def lasting(report):
    """A report without what differs from one machine and moment to the next."""
    kept = report.partition("## Machine")[0]
    kept = re.sub(r"^\| (started, finished|command|settings from).*\n", "", kept, flags=re.MULTILINE)
    head, title, engines = kept.partition("## Engines")
    return head + title + re.sub(r"\|[^|\n]*\|$", "|", engines, flags=re.MULTILINE)  # how long a start took
