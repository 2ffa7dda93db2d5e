"""An A/B's session as a process: what it sees of the machine, and how a signal ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from context_research.compare.ab import processes as ab_processes
from tests.support.processes import interruptible, until

SEEN = """
import json, os
from pathlib import Path
def test_look():
    seen = [sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")]
    Path("seen.json").write_text(json.dumps(seen))
"""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Cores and CUDA_VISIBLE_DEVICES of a session, begun on a machine with GPUs 4 to 7."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr(ab_processes, "visible_gpus", lambda: ["4", "5", "6", "7"])
    Path("test_seen.py").write_text(SEEN)

    def look(device, group):
        process = ab_processes.begin(["-p", "no:cacheprovider", "test_seen.py"], Path("log"), device, group)
        ended = ab_processes.first_to_end([SimpleNamespace(process=process)]).process
        assert ended.returncode == 0, Path("log").read_text()
        return json.loads(Path("seen.json").read_text())

    return look


def test_a_group_of_gpus_is_all_that_a_session_sees_of_them(seen):
    assert seen("cuda", [2, 3]) == [sorted(os.sched_getaffinity(0)), "6,7"]


def test_a_group_of_cores_is_all_that_a_session_sees(seen):
    core = max(os.sched_getaffinity(0))
    assert seen("cpu", [core]) == [[core], "4,5,6,7"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_groups_a_session_sees_everything(seen, device):
    assert seen(device, None) == [sorted(os.sched_getaffinity(0)), "4,5,6,7"]


SLOW = """
import signal, time, pytest
from pathlib import Path
@pytest.fixture
def engine():
    yield
    time.sleep(1)  # engines take their time to close
    Path("closed").touch()
def test_long(engine):
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("as our plugin does in a session that measures"))
    Path("running").touch()
    time.sleep(60)
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Starts what begins a session of `code` and waits for it as an A/B does, once the session runs."""
    monkeypatch.chdir(tmp_path)
    started = []

    def drive(code, end_s=90):
        Path("test_slow.py").write_text(code)
        arguments = ["-p", "no:cacheprovider", "test_slow.py"]
        script = (
            "from pathlib import Path; from types import SimpleNamespace as Running\n"
            "from context_research.compare.ab import processes as ab_processes\n"
            f"ab_processes.END_S = {end_s}\n"
            "running = []\n"
            "with ab_processes.ended_with_us(running):\n"
            f"    running.append(Running(process=ab_processes.begin({arguments}, Path('log'), 'cpu', None)))\n"
            "    ab_processes.first_to_end(running)\n"
        )
        started.append(
            one := subprocess.Popen(
                [sys.executable, "-c", script], process_group=0, stderr=subprocess.DEVNULL, preexec_fn=interruptible
            )
        )
        assert until(Path("running").exists, seconds=30)
        return one

    yield drive
    for one in started:
        one.kill()
        one.wait()


ENDINGS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "sighup"]
)


@ENDINGS
def test_a_signal_lets_the_session_close_its_engines(driver, number):
    """A terminal's Ctrl-C goes to the whole process group: the session must not get a second signal while it ends."""
    one = driver(SLOW)
    (os.killpg if number == signal.SIGINT else os.kill)(one.pid, number)
    one.wait(timeout=30)
    assert Path("closed").exists(), Path("log").read_text()


HANGS = """
import os, signal, subprocess, time
from pathlib import Path
def test_hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "100"], process_group=0)
    Path("running.new").write_text(f"{os.getpid()} {child.pid}")
    Path("running.new").rename("running")
    while True:
        time.sleep(1)
"""
"""A session that no SIGTERM ends, and a process that it started, in a group of its own."""


def test_a_session_that_hangs_is_killed_after_a_while_with_all_that_it_started(driver):
    one = driver(HANGS, end_s=1)
    pids = [int(pid) for pid in Path("running").read_text().split()]
    one.terminate()
    assert one.wait(timeout=20) != 0
    assert not any(map(runs, pids))


def test_a_second_signal_does_not_wait_for_a_session_that_hangs(driver):
    one = driver(HANGS)
    pids = [int(pid) for pid in Path("running").read_text().split()]
    one.terminate()
    time.sleep(1.5)
    assert all(map(runs, pids))
    one.terminate()
    assert one.wait(timeout=20) != 0
    assert not any(map(runs, pids))


def runs(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
