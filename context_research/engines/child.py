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

import psutil

PARENT = "CONTEXT_RESEARCH_PARENT"
"""Environment variable: "pid start-time" of the process that engines must not outlive."""
_PR_SET_PDEATHSIG = 1
_starting = False


@contextmanager
def dies_with_parent() -> Iterator[dict[str, str]]:
    """While open, forked children die with this thread. Yields the environment that does the same for spawned ones.

    The kernel's signal follows the parent *thread*: open it on the main thread only.
    """
    global _starting
    me = psutil.Process()
    _starting = True
    try:
        yield {PARENT: f"{me.pid} {me.create_time()}"}
    finally:
        _starting = False


def _after_fork() -> None:
    if _starting:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


os.register_at_fork(after_in_child=_after_fork)


def register() -> None:
    """Entry point `vllm.general_plugins`: vLLM calls it in every process it starts."""
    from context_research.engines import seeded_loader

    seeded_loader.register()
    pid, _, created = os.environ.get(PARENT, "").partition(" ")
    if pid and int(pid) != os.getpid():
        threading.Thread(target=_watch, args=(int(pid), float(created)), daemon=True, name="parent-watch").start()


def _watch(pid: int, created: float) -> None:
    while _alive(pid, created):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _alive(pid: int, created: float) -> bool:
    try:
        parent = psutil.Process(pid)
        # A zombie has ended; another create time means that the pid was given to another process.
        return parent.create_time() == created and parent.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
