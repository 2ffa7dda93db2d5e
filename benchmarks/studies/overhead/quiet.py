"""Whether the machine was ours alone: a pair of runs that other processes disturbed says nothing about 1 %."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import click
import psutil

Result = TypeVar("Result")
_ATTEMPTS = 4
"""How often, per pair wanted, a pair is run before giving up on a busy machine."""


FEWEST = 5
"""Pairs below which the median's interval says nothing."""


class TooBusy(Exception):
    """Other processes left too few undisturbed pairs."""


def in_pairs(
    name: str,
    ours: Callable[[int], Result],
    other: Callable[[int], Result],
    pairs: int,
    max_others: float,
    deadline: float = float("inf"),
) -> list[tuple[Result, Result]]:
    """Both sides' results in `pairs` pairs, in ABBA order, so that a steady drift of the machine cancels out.

    A pair during which other processes used more than `max_others` of the machine's CPU (a share, 0 to 1) is run again:
    that is decided without a look at its figures. Raises TooBusy. `name` is for the progress line.
    None begins after the `deadline`, a `time.monotonic()`, once there are FEWEST: so is that.
    """
    results: list[tuple[Result, Result]] = []
    with click.progressbar(length=pairs, label=name, file=sys.stderr) as progress:
        for _ in range(pairs * _ATTEMPTS):
            pair, before = len(results), _cpu_seconds()
            if pair % 2 == 0:
                a = ours(pair)
                b = other(pair)
            else:
                b = other(pair)
                a = ours(pair)
            if _others(before, _cpu_seconds()) <= max_others:
                results.append((a, b))
                progress.update(1)
            if len(results) == pairs or (len(results) >= FEWEST and time.monotonic() > deadline):
                return results
    raise TooBusy(
        f"{name}: only {len(results)} of {pairs} pairs had the machine to themselves in {pairs * _ATTEMPTS} attempts; "
        f"in the rest other processes used more than {max_others:.0%} of its CPU (--max-others)"
    )


def _cpu_seconds() -> tuple[float, float, float]:
    """CPU seconds so far: of the machine in all and busy, and of this process with all that it started."""
    machine, mine = psutil.cpu_times(), os.times()
    total = sum(machine[:8])  # the rest, guest time, is part of user time
    busy = total - machine.idle - machine.iowait
    own = mine.user + mine.system + mine.children_user + mine.children_system
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            own += sum(process.cpu_times()[:4])
    return total, busy, own


def _others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Share of the machine's CPU that other processes used in between."""
    total, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return (busy - own) / total
