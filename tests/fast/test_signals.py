"""Signals that ask a process to end: raised where that is safe, never lost, never amid a fork."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from context_research import signals


@pytest.fixture
def at_once():
    return []


@pytest.fixture
def taken(at_once, monkeypatch):
    """Signals are taken; those that follow each other in this test are two."""
    monkeypatch.setattr(signals, "SAME_S", 0.0)
    with signals.taken(at_once.append, interruptible=True) as ending:
        yield ending
        ending.close()


@pytest.mark.parametrize("number", signals.ENDING, ids=lambda number: number.name)
def test_a_signal_interrupts_a_wait_and_says_which_it_was(taken, number):
    with pytest.raises(signals.Interrupted, match=f"{number.name} received") as caught:
        signal.raise_signal(number)
    assert caught.value.number == number


def test_no_except_exception_swallows_it(taken):
    with pytest.raises(signals.Interrupted), contextlib.suppress(Exception):  # which swallowed pytest's own Exit
        signal.raise_signal(signal.SIGTERM)


def test_what_must_come_to_its_end_does_and_the_signal_is_raised_after_it(taken):
    done = []

    def write():
        with signals.uninterruptible():
            signal.raise_signal(signal.SIGTERM)
            signals.look()
            done.append("written")

    with pytest.raises(signals.Interrupted):
        write()
    assert done == ["written"]


def test_a_signal_that_came_between_two_tests_is_raised_in_the_next_one(taken):
    taken.close()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(signals.Interrupted), signals.interruptible():
        pytest.fail("the test ran")


def test_what_was_swallowed_is_raised_again_at_the_next_safe_point(taken):
    with contextlib.suppress(signals.Interrupted):  # as Python does with what `__del__` raises
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(signals.Interrupted):
        signals.look()


def test_what_was_swallowed_is_raised_again_amid_a_wait_too(taken):
    """vLLM swallows a KeyboardInterrupt while it waits for an engine's process, and waits on: for ten minutes."""
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(30)
    with pytest.raises(signals.Interrupted):
        time.sleep(30)
    taken.close()
    assert time.monotonic() - began < 10


def test_after_hold_the_region_is_not_interrupted_any_more(taken):
    with signals.interruptible():
        signals.hold()
        signal.raise_signal(signal.SIGTERM)
        signals.look()
        taken.asked = None


def test_the_second_signal_ends_at_once_whatever_it_falls_into(taken, at_once):
    taken.close()
    signal.raise_signal(signal.SIGTERM)
    assert at_once == []
    signal.raise_signal(signal.SIGINT)
    assert at_once == [signal.SIGINT]


def test_two_signals_within_a_second_are_one(taken, at_once, monkeypatch):
    """GNU timeout signals its child, then the process group that it is in."""
    monkeypatch.setattr(signals, "SAME_S", 1.0)
    taken.close()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert at_once == []


def test_a_signal_that_is_ignored_stays_ignored():
    """Under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.taken(pytest.fail, interruptible=True):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_before_are_back_afterwards():
    before = [signal.getsignal(number) for number in signals.ENDING]
    with signals.taken(pytest.fail, interruptible=True):
        assert [signal.getsignal(number) for number in signals.ENDING] != before
    assert [signal.getsignal(number) for number in signals.ENDING] == before


FORKS = """
import logging, os, random, signal, sys, threading, time
from context_research import signals

number, main = int(sys.argv[1]), os.getpid()
signal.signal(number, lambda *_: None)  # a signal that comes too late for a round is nobody's
logging.basicConfig(stream=sys.stdout)

waits, go = os.pipe()

def strike(after):
    if (pid := os.fork()) == 0:  # a process: a thread would strike while it has the interpreter, and never amid a hook
        os.read(waits, 1)
        time.sleep(after)
        os.kill(main, number)
        os._exit(0)
    return pid

def fork():
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)

slow = lambda: sum(range(3000))  # or signals would hardly ever fall into hooks
os.register_at_fork(before=slow, after_in_parent=slow)

for round in range(150):
    pid = strike(random.uniform(0, 0.008))
    try:
        with signals.taken(lambda _: os._exit(9), interruptible=True):
            os.write(go, b".")
            until = time.monotonic() + 5
            while time.monotonic() < until:
                fork()
            os._exit(8)  # the signal was lost
    except signals.Interrupted:
        os.waitpid(pid, 0)
    other = threading.Thread(target=logging.warning, args=("the lock is free",), daemon=True)
    other.start()
    other.join(5)
    if other.is_alive():
        os._exit(7)  # logging's lock is taken for good
    assert not signals._forks
print("done")
"""
"""Each round forks until a signal comes at a random moment."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_process_that_forks_in_a_loop_neither_hangs_nor_misses_a_signal(number):
    """Python runs handlers within a fork's hooks, and swallows what they raise there: logging's lock stayed taken."""
    command = [sys.executable, "-c", FORKS, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("done\n")
    assert "Exception ignored" not in ended.stderr


IN_HOOK = """
import os, signal, sys, time
from context_research import signals

def hook():
    signal.raise_signal(signal.SIGTERM)
    print("in the hook", flush=True)

os.register_at_fork(**{sys.argv[1]: hook})
try:
    with signals.taken(lambda _: os._exit(9), interruptible=True):
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(5)
        os._exit(8)
except signals.Interrupted:
    os._exit(3)
"""


@pytest.mark.parametrize("which", ["before", "after_in_parent"])
def test_a_signal_within_a_forks_hook_is_raised_after_the_fork(which):
    ended = subprocess.run(
        [sys.executable, "-c", IN_HOOK, which], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "in the hook\n", "")
