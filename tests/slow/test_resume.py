"""A session that was ended by a signal amid its cases goes on, by itself and in an A/B; simulated."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.artifacts import metadata, plain, summary
from tests.support.processes import interruptible, wait_for
from tests.support.suite import SMALL

SIMULATED = ("--seed=0", "--device-profile=cpu-2core", *SMALL, "--concurrency=1,2,3")
HOLDS = """
import pathlib, pytest, time

@pytest.fixture(autouse=True)
def hold(concurrency):
    if concurrency > 2 and pathlib.Path("hold").exists():
        pathlib.Path("held").touch()
        for _ in range(3000):
            time.sleep(0.1)
"""


@pytest.fixture
def struck(suite, monkeypatch):
    """Sends a process the signal once the third case is there to be measured."""
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(HOLDS)

    def strike(begin, number):
        (suite.path / "hold").touch()
        process = begin()
        try:
            wait_for(lambda: process.poll() is not None or (suite.path / "held").exists(), "the third case")
            assert process.poll() is None
            os.kill(process.pid, number)
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
        (suite.path / "hold").unlink()

    return strike


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_whatever_ended_it_a_run_becomes_the_one_that_was_not_interrupted(struck, suite, number):
    struck(lambda: suite.popen(*SIMULATED, "--run-id=mine"), number)
    folder = suite.run
    assert metadata(folder)["status"] == ("running" if number == signal.SIGKILL else "interrupted")
    assert len(summary(folder)["cases"]) == 2
    suite.outside(*SIMULATED, "--resume=mine").assert_outcomes(passed=1, deselected=2)
    suite.outside(*SIMULATED, "--run-id=whole").assert_outcomes(passed=3)
    whole = folder.with_name("whole")
    assert metadata(folder)["status"] == "completed"
    assert summary(folder)["cases"] == summary(whole)["cases"]
    assert (folder / "requests.jsonl").read_bytes() == (whole / "requests.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_ab_goes_on_amid_its_session(struck, suite, number):
    options = [option for option in SIMULATED if not option.startswith(("--seed", "--repeats"))]
    command = [sys.executable, "-m", "context_research.cli", "ab", "e0", "--pairs=1", "--", *options, "--requests=8"]
    struck(lambda: subprocess.Popen(command, preexec_fn=interruptible), number)
    (path,) = (suite.path / "outputs" / "ab").glob("*/ab.json")
    run_id = plain(path, "ab")["sessions"][0]["run_id"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "goes on after 2 of 3 cases" in told.stdout
    record = plain(path, "ab")
    assert [session["status"] for session in record["sessions"]] == ["completed"] * 2
    assert record["sessions"][0]["run_id"] == run_id
    folder = suite.path / "outputs" / "runs" / run_id
    assert len(metadata(folder)["resumed"]) == 1
    assert [case["name"] for case in summary(folder)["cases"]] == ["p64-c1", "p64-c2", "p64-c3"]
