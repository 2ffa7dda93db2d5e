"""Signals in each moment of a session, from within its own hooks so that they come exactly there."""

import os
import pty
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.artifacts import metadata, plain, summary
from tests.support.processes import ended, interruptible, until, wait_for
from tests.support.suite import SMALL

SIMULATED = ("--seed=0", *SMALL, "--device-profile=cpu-2core")
CODES = {signal.SIGINT: 2, signal.SIGTERM: 143, signal.SIGHUP: 129}


def write_conftest(suite, number, code):
    """`code`, in which `strike()` sends the session the signal."""
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "import pytest\n"
        f"def strike():\n    os.kill(os.getpid(), {int(number)})\n    time.sleep(0.01)\n" + code
    )


@pytest.fixture
def session(suite, monkeypatch):
    """E0 simulated, in a process of its own, with a conftest that strikes."""
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")

    def run(number, conftest):
        write_conftest(suite, number, conftest)
        return suite.outside(*SIMULATED)

    return run


def of_the_first(hook, arguments):
    return f"""
@pytest.hookimpl(wrapper=True)
def {hook}({arguments}):
    result = yield
    if not Path("struck").exists():
        Path("struck").touch()
        strike()
    return result
"""


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("pytest_runtest_makereport", "item, call"),
        ("pytest_runtest_logreport", "report"),
        ("pytest_runtest_teardown", "item"),
        ("pytest_runtest_logfinish", "nodeid"),
        ("pytest_context_research_case_finished", "case"),
    ],
)
def test_a_signal_between_measuring_a_case_and_the_next_test_keeps_the_case(session, suite, hook, arguments):
    """In pytest's own code, as it switches its capturing, it was an error of pytest's, and the case was gone."""
    condition = "if call.when == 'call'" if "call" in arguments else "if report.when == 'call'"
    code = of_the_first(hook, arguments)
    if hook in ("pytest_runtest_makereport", "pytest_runtest_logreport"):
        code = code.replace("    if not Path", f"    {condition} and not Path")
    result = session(signal.SIGTERM, code)
    assert result.ret == 143
    recorded = metadata(suite.run)
    assert (recorded["status"], recorded["exit_status"]) == ("interrupted", 143)
    assert recorded["reason"] == "SIGTERM received"
    assert [case["status"] for case in summary(suite.run)["cases"]] == ["passed"]
    assert (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").exists()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_what_swallows_every_exception_does_not_swallow_a_signal(session, suite):
    result = session(
        signal.SIGTERM,
        "@pytest.fixture(autouse=True)\n"
        "def swallows():\n"
        "    try:\n        strike()\n    except BaseException:\n        pass\n",
    )
    assert result.ret == 143
    assert metadata(suite.run)["status"] == "interrupted"


def test_after_the_last_test_a_run_is_whole_and_a_signal_changes_nothing(session, suite):
    result = session(signal.SIGTERM, "def pytest_sessionfinish():\n    strike()\n")
    assert result.ret == 0
    assert metadata(suite.run)["status"] == "completed"
    assert (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").exists()


def test_before_the_first_test_nothing_is_written_and_the_exit_status_is_the_signals(session, suite):
    result = session(signal.SIGTERM, "def pytest_collection_modifyitems():\n    strike()\n")
    assert result.ret == 143
    assert suite.runs == []


TWICE = """
@pytest.fixture(autouse=True)
def hold(concurrency):
    if concurrency > 1:
        try:
            strike()
        finally:
            import subprocess
            Path("child").write_text(str(subprocess.Popen(["sleep", "100"]).pid))
            time.sleep(1.5)
            strike()
            time.sleep(100)
"""
"""An end in order that would take for ever."""


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_second_signal_ends_at_once_and_the_record_says_so(session, suite, number):
    """Ctrl-C twice was a traceback, `incomplete` and exit status 0."""
    result = session(number, TWICE)
    assert result.ret == CODES[number]
    recorded = metadata(suite.run)
    assert (recorded["status"], recorded["exit_status"]) == ("interrupted", CODES[number])
    assert recorded["reason"] == f"{number.name} received twice"
    assert [case["status"] for case in summary(suite.run)["cases"]] == ["passed"]
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    child = int((suite.path / "child").read_text())
    assert until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_closed_terminal_leaves_a_whole_record_and_a_report(suite, monkeypatch):
    """What is written to it afterwards fails, pytest's last words among it."""
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        "import pytest, time\n"
        "@pytest.fixture(autouse=True)\n"
        "def hold(concurrency):\n"
        "    if concurrency > 1:\n"
        "        open('held', 'w').close()\n"
        "        time.sleep(100)\n"
    )
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [*suite.command, *SIMULATED],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: (interruptible(), os.close(os.open(os.ttyname(0), os.O_RDWR))),  # its terminal from now on
    )
    try:
        os.close(its)
        wait_for((suite.path / "held").exists, "the second case")
        os.close(ours)
        assert process.wait(60) == 129
    finally:
        process.kill()
        process.wait()
    recorded = metadata(suite.run)
    assert (recorded["status"], recorded["reason"]) == ("interrupted", "SIGHUP received")
    assert (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").exists()


STARTS = """
import threading
@pytest.fixture(autouse=True, scope="session")
def strike_later():
    import psutil
    def watch():
        while not psutil.Process().children():
            time.sleep(0.005)
        Path("engine").write_text(" ".join(str(child.pid) for child in psutil.Process().children(recursive=True)))
        strike()
    threading.Thread(target=watch, daemon=True).start()
"""


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_while_an_engine_starts_interrupts_the_run(suite, number):
    """It was "could not start: Exit", status `error` and exit status 2."""
    write_conftest(suite, number, STARTS)
    process = suite.popen("--seed=0", *SMALL, "--run-id=real")
    assert process.wait(timeout=120) == CODES[number]
    recorded = metadata(suite.path / "outputs" / "runs" / "real")
    assert (recorded["status"], recorded["reason"]) == ("interrupted", f"{number.name} received")
    pids = map(int, (suite.path / "engine").read_text().split())
    assert ended([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)])


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_ends_an_ab_and_its_session_in_order(suite, monkeypatch, number):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    held = suite.path / "held"
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        "import pytest, time\n"
        "@pytest.fixture(autouse=True)\n"
        f"def hold():\n    open({str(held)!r}, 'w').close()\n    time.sleep(100)\n"
    )
    options = [option for option in SIMULATED if not option.startswith(("--seed", "--repeats"))]
    command = [sys.executable, "-m", "context_research.cli", "ab", "e0", "--pairs=1", "--", *options, "--requests=8"]
    process = subprocess.Popen(command, preexec_fn=interruptible, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: process.poll() is not None or held.exists(), "the first session")
        (session_process,) = psutil.Process(process.pid).children()
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    assert said == f"ERROR: {number.name} received; the same command goes on with what is there\n"
    assert ended([session_process])
    (path,) = (suite.path / "outputs" / "ab").glob("*/ab.json")
    recorded = plain(path, "ab")
    assert (recorded["status"], recorded["reason"]) == ("stopped", f"{number.name} received")
    assert metadata(suite.run)["status"] == "interrupted"
