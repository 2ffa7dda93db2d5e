"""Waiting for what happens in other processes."""

import signal
import time

import psutil
import pytest

PATIENCE_S = 240


def until(condition, seconds=5.0):
    """What `condition` says once it is true; its last, false word if that did not happen in time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def wait_for(condition, what):
    """As `until`, for as long as an engine may take to start; the test fails if it did not happen."""
    return until(condition, PATIENCE_S) or pytest.fail(f"waited {PATIENCE_S} s for {what}")


def ended(processes):
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive


def interruptible():
    """For `preexec_fn`: Ctrl-C reaches the process, also where this one ignores it, as an xdist worker does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
