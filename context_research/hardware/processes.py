"""Processes of this machine, told apart for good; and how the operating system treats them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import psutil

Answer = TypeVar("Answer")


class Process(NamedTuple):
    """Another process may get its id, but not with its start (seconds since the epoch)."""

    pid: int
    started: float

    @classmethod
    def of(cls, process: psutil.Process) -> Process:
        return cls(process.pid, process.create_time())


def niceness(processes: Iterable[Process]) -> set[int]:
    """Their niceness values; of those that have ended none."""
    return {nice for one in processes if (nice := _asked(one, psutil.Process.nice)) is not None}


def cores(processes: Iterable[Process]) -> set[int]:
    """The cores that any of their threads may use."""
    allowed = set[int]()
    for one in processes:
        for thread in _asked(one, psutil.Process.threads) or ():
            try:
                allowed |= os.sched_getaffinity(thread.id)
            except ProcessLookupError:
                continue
    return allowed


def _asked(one: Process, question: Callable[[psutil.Process], Answer]) -> Answer | None:
    try:
        return question(psutil.Process(one.pid))
    except psutil.Error:
        return None
