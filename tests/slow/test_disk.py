"""A disk that fills up, a real one, at each moment of a run: what is finished is kept, and nothing is a traceback."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from context_research.cli.main import main
from tests.support.artifacts import metadata, requests, summary
from tests.support.suite import SMALL

SMALL_DISK = (
    "mkdir outputs && mount -t tmpfs -o size={size} tmpfs outputs && {{ {command}; code=$?; {after} exit $code; }}"
)
KEEP = "rm -f outputs/fill; cp -r outputs kept; umount outputs; rm -r outputs; mv kept outputs;"
FILL = """
import errno, pytest
from pathlib import Path
def fill():
    try:
        with open("outputs/fill", "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
"""


def can_mount():
    return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(sys.platform != "linux" or not can_mount(), reason="no disk can be mounted here")


@pytest.fixture
def on_small_disk(suite, monkeypatch):
    """E0 simulated, its outputs on a disk of their own, which `fill()` in its conftest fills."""
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")

    def run(conftest, size="40M"):
        (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(FILL + conftest)
        options = ["--seed=0", *SMALL, "--concurrency=1,2,3", "--device-profile=cpu-2core"]
        command = SMALL_DISK.format(size=size, command=" ".join([*suite.command, *options]), after=KEEP)
        ended = subprocess.run(
            ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in ended.stdout + ended.stderr
        assert "INTERNALERROR" not in ended.stdout
        return ended

    return run


FULL = "No space left on device"


def test_a_disk_that_fills_up_within_a_case_ends_the_run_and_keeps_that_case(on_small_disk, suite):
    """It was an internal error, the case was gone, and the run was `running` for ever."""
    ended = on_small_disk(
        "@pytest.fixture(autouse=True)\ndef full(concurrency):\n    if concurrency == 2:\n        fill()\n"
    )
    assert ended.returncode == pytest.ExitCode.INTERRUPTED
    assert f"requests.jsonl: {FULL}" in ended.stdout
    recorded = metadata(suite.run)
    assert (recorded["status"], recorded["exit_status"]) == ("error", 2)
    assert recorded["reason"].endswith(f"requests.jsonl: {FULL}")
    assert [case["status"] for case in summary(suite.run)["cases"]] == ["passed", "passed"]
    assert {line["case"] for line in requests(suite.run)} == {"p64-c1", "p64-c2"}
    assert not (suite.run / ".running").exists()


def test_a_disk_that_fills_up_before_the_report_costs_the_report_alone(on_small_disk, suite, drawn):
    """It was a traceback and exit status 1, of a run that was said to have ended with 0."""
    ended = on_small_disk(
        "def pytest_context_research_report_sections():\n    fill()\n"  # all that last words may have is spent by now
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    recorded = metadata(suite.run)
    assert "context-research: no report: cannot write " in ended.stdout
    assert (recorded["status"], recorded["exit_status"]) == ("completed", 1)
    assert len(summary(suite.run)["cases"]) == 3
    made = CliRunner().invoke(main, ["report", suite.run.name])
    assert made.exit_code == 0
    assert (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").exists()


def test_a_disk_that_fills_up_after_the_last_case_costs_nothing(on_small_disk, suite):
    ended = on_small_disk("def pytest_sessionfinish():\n    fill()\n")
    assert ended.returncode == 0
    assert (metadata(suite.run)["status"], len(summary(suite.run)["cases"])) == ("completed", 3)
    assert (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").exists()


def test_a_disk_that_is_full_is_refused_before_anything_starts(on_small_disk, suite):
    ended = on_small_disk("", size="2M")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: cannot write to the outputs folder {suite.path}/outputs: {FULL} (--outputs)\n" in ended.stderr
    assert suite.runs == []
