"""An A/B's sessions as processes: begun on devices of their own, waited for, ended in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from context_research import signals
from context_research.engines.vllm.process_lifetime import dies_with_parent
from context_research.hardware.devices import visible_gpus
from context_research.settings.schema import Device

_LOOK_S = 0.2
END_S = 90.0
"""A session may take so long to end in order: a test's engines are closed, and a report is written."""


@dataclass(frozen=True, slots=True)
class Running:
    """A session that runs now: its number, from 1, and when its process began (monotonic)."""

    number: int
    log: Path
    began: float
    process: subprocess.Popen[bytes]
    goes_on: bool = False
    """With a run that an earlier process began; `began` is then as if it had been one."""


def begin(arguments: list[str], log: Path, device: Device, group: Sequence[int] | None) -> subprocess.Popen[bytes]:
    """pytest in a process of its own, its output to `log`; it sees the GPUs or cores of `group` alone, None: all."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if group is not None and device == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus()[index] for index in group)

    def confine() -> None:  # there is always a preexec_fn: fork hooks, which dies_with_parent needs, run only then
        if group is not None and device == "cpu":
            os.sched_setaffinity(0, group)

    with log.open("a", encoding="utf-8") as output:  # an earlier part of the session may have written
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C goes to us alone: a second signal would disturb the session's end
            preexec_fn=confine,
        )


def first_to_end(running: Sequence[Running]) -> Running:
    """Wait until one of them has ended; that one. Raises signals.Interrupted."""
    while True:
        for one in running:
            if one.process.poll() is not None:
                return one
        with signals.interruptible():
            time.sleep(_LOOK_S)


@contextmanager
def ended_with_us(running: Sequence[Running]) -> Iterator[None]:
    """On a signal or an exception, ask the sessions in `running`, as they are then, to end, and wait for them.

    One that has not ended after END_S is killed with all that it started; so is each at a second signal.
    """
    with signals.taken(lambda _: _kill(running), interruptible=False):
        try:
            with dies_with_parent():  # killed outright, we could not end the sessions, and they would run on
                yield
        except BaseException:
            _end(running)
            raise


def _end(running: Sequence[Running]) -> None:
    for one in running:
        one.process.terminate()
    deadline = time.monotonic() + END_S
    for one in running:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill([one])
            one.process.wait()


def _kill(running: Sequence[Running]) -> None:
    """The sessions, and what they started: a process that ends by SIGKILL ends nobody else."""
    for one in running:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            started = psutil.Process(one.process.pid).children(recursive=True)
            one.process.kill()
            for process in started:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            os.killpg(one.process.pid, signal.SIGKILL)  # what was started meanwhile
