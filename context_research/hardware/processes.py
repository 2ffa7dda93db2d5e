"""Processes of this machine, told apart for good; and how the operating system treats them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

Answer = TypeVar("Answer")


class Process(NamedTuple):
    """Another process may get its id, but not with its start: in clock ticks since boot, as clocks may be set."""

    pid: int
    started: int

    @classmethod
    def of(cls, process: psutil.Process) -> Process:
        """Raises psutil.NoSuchProcess."""
        try:
            told = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            raise psutil.NoSuchProcess(process.pid) from None
        return cls(process.pid, int(told.rpartition(")")[2].split()[19]))


def with_descendants(some: Iterable[Process]) -> Iterator[psutil.Process]:
    """Those of `some` that still run, and all that they started, each once."""
    seen = set[int]()
    for one in some:
        for process in _asked(one, lambda own: [own, *own.children(recursive=True)]) or ():
            if process.pid not in seen:
                seen.add(process.pid)
                yield process


def niceness(some: Iterable[Process]) -> set[int]:
    """The niceness values of these and of what they started; of those that have ended none."""
    found = set[int]()
    for process in with_descendants(some):
        with suppress(psutil.Error):
            found.add(int(process.nice()))
    return found


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
