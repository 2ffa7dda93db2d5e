"""What runs inside engine processes: our model loader, and a way for them to die with the session that started them.

vLLM's EngineCore outlives a parent that is killed. A forked child asks the kernel to be killed with its parent; a
spawned one starts afresh, gets here through the `vllm.general_plugins` entry point, and watches the parent's pid.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARENT = "CONTEXT_RESEARCH_PARENT"
"""Environment variable: "pid start-time" of the process that engines must not outlive."""
_PR_SET_PDEATHSIG = 1
_starting = False
_forking = 0
"""Pid of this process when it last forked: a forked child's parent."""


@contextmanager
def dies_with_parent() -> Iterator[dict[str, str]]:
    """While open, forked children die with this thread. Yields the environment that does the same for spawned ones.

    The kernel's signal follows the parent *thread*: open it on the main thread only.
    """
    global _starting
    _starting = True
    try:
        yield {PARENT: f"{os.getpid()} {_stat(os.getpid())[1]}"}
    finally:
        _starting = False


def _before_fork() -> None:
    global _forking
    _forking = os.getpid()


def _after_fork() -> None:
    if _starting:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # A parent that died before this line sends no signal any more.
        if os.getppid() != _forking:
            os.kill(os.getpid(), signal.SIGKILL)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it in every process it starts."""
    from context_research.engines.vllm import seeded_weights

    seeded_weights.register()
    pid, _, created = os.environ.get(PARENT, "").partition(" ")
    if pid and int(pid) != os.getpid():
        threading.Thread(target=_watch, args=(int(pid), float(created)), daemon=True, name="parent-watch").start()


def _watch(pid: int, created: float) -> None:
    while _alive(pid, created):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _alive(pid: int, created: float) -> bool:
    try:
        state, started = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie has ended; another start time means that the pid was given to another process.
    return started == created and state not in "ZX"


def _stat(pid: int) -> tuple[str, int]:
    """State and start of a process, in clock ticks since boot: psutil's create_time() moves when the clock is set."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return fields[0], int(fields[19])
