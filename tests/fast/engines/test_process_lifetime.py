import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest

from context_research.engines.vllm import process_lifetime
from context_research.engines.vllm.process_lifetime import PARENT, dies_with_parent
from tests.support.processes import until

FORKS = """
import os, signal, sys, time
os.register_at_fork(after_in_child=lambda: time.sleep(float(sys.argv[1])))
from context_research.engines.vllm.process_lifetime import dies_with_parent

ready, tell = os.pipe()

def fork():
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(tell, b".")
        time.sleep(30)
        os._exit(0)
    return pid

with dies_with_parent():
    inside = fork()
outside = fork()
if sys.argv[1] == "0":
    os.read(ready, 1), os.read(ready, 1)
print(inside, outside, flush=True)
time.sleep(30)
"""
"""Forks one child in the guard and one outside; prints their pids once both run. With a delay, before they do."""
SLEEPS = """
import time
from context_research.engines.vllm.process_lifetime import PARENT, dies_with_parent
with dies_with_parent() as environment:
    print(environment[PARENT], flush=True)
time.sleep(30)
"""
"""Prints what engines would be told of this process."""


@pytest.fixture
def python():
    """Starts Python processes; what is left of them is killed at the end."""
    with contextlib.ExitStack() as ends:

        def start(code, *arguments, **keywords):
            command = [sys.executable, "-c", code, *arguments]
            process = ends.enter_context(subprocess.Popen(command, text=True, **keywords))
            ends.callback(process.kill)
            return process

        yield start


@pytest.fixture
def family(python):
    """A process that forked two children, one in the guard and one outside: the process and their pids."""
    pids = []

    def start(delay="0"):
        parent = python(FORKS, delay, stdout=subprocess.PIPE)
        pids.extend(map(int, parent.stdout.readline().split()))
        return parent, *pids

    yield start
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ended(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def identity(text):
    """ "pid start-time" as the arguments of `_alive`."""
    pid, created = text.split()
    return int(pid), float(created)


@pytest.fixture
def me():
    with dies_with_parent() as environment:
        return identity(environment[PARENT])


def test_a_forked_child_dies_with_its_killed_parent_and_only_that_one(family):
    parent, inside, outside = family()
    assert not until(lambda: ended(inside), 0.1)
    parent.kill()
    parent.wait()
    assert until(lambda: ended(inside))
    assert not ended(outside), "forked while the guard was closed"


def test_a_child_whose_parent_dies_before_it_runs_dies_too(family):
    parent, inside, _ = family("0.5")
    parent.kill()
    parent.wait()
    assert until(lambda: ended(inside), 1.5)


def test_the_guard_closes_also_after_an_error():
    with contextlib.suppress(ValueError), dies_with_parent():
        assert process_lifetime._starting
        raise ValueError
    assert not process_lifetime._starting


def test_a_watched_parents_end_kills_the_watcher(python):
    parent = python(SLEEPS, stdout=subprocess.PIPE)
    told = identity(parent.stdout.readline())
    watcher = python(f"from context_research.engines.vllm.process_lifetime import _watch; _watch(*{told!r})")
    assert not until(lambda: watcher.poll() is not None, 0.1)
    parent.kill()
    parent.wait()
    assert watcher.wait(10) == -signal.SIGKILL


def test_this_process_is_alive(me):
    assert me[0] == os.getpid()
    assert process_lifetime._alive(*me)


def test_a_process_that_is_gone_is_not_alive(python):
    process = python(SLEEPS, stdout=subprocess.PIPE)
    told = identity(process.stdout.readline())
    assert process_lifetime._alive(*told)
    process.kill()
    assert until(lambda: ended(process.pid))
    assert not process_lifetime._alive(*told), "a zombie has ended"
    process.wait()
    assert not process_lifetime._alive(*told)


def test_another_process_of_the_same_pid_is_not_alive(me):
    pid, created = me
    assert not process_lifetime._alive(pid, created - 100)


def test_setting_the_clock_kills_nobody(me, monkeypatch):
    real = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real() + 3600)
    assert process_lifetime._alive(*me)
