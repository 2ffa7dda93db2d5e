"""Runs made in pairs on a machine that was ours alone: a pair that other processes disturbed says nothing about 1 %."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import click
import psutil

Result = TypeVar("Result")
FEWEST = 5
"""Pairs below which the median's interval says nothing."""
_ATTEMPTS = 4
"""How often, per pair wanted, a pair is run before giving up on a busy machine."""


class TooBusy(Exception):
    """Other processes left too few undisturbed pairs."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """How many pairs are wanted, and what disturbs one."""

    pairs: int
    max_others: float
    """A pair is run again if other processes used more than this share (0 to 1) of the machine's CPU meanwhile."""
    deadline: float = float("inf")
    """After it (`time.monotonic()`) no new pair is started once FEWEST exist."""

    def run(
        self, name: str, ours: Callable[[int], Result], other: Callable[[int], Result]
    ) -> list[tuple[Result, Result]]:
        """Both sides' results, pair by pair, in ABBA order, so that a steady drift of the machine cancels out.

        Each side is called with the pair's number. Whether a pair counts is decided without a look at its figures.
        Raises TooBusy. `name` is for the progress line.
        """
        results: list[tuple[Result, Result]] = []
        with click.progressbar(length=self.pairs, label=name, file=sys.stderr) as progress:
            for _ in range(self.pairs * _ATTEMPTS):
                pair, before = len(results), _cpu_seconds()
                if pair % 2 == 0:
                    a = ours(pair)
                    b = other(pair)
                else:
                    b = other(pair)
                    a = ours(pair)
                if _others(before, _cpu_seconds()) <= self.max_others:
                    results.append((a, b))
                    progress.update(1)
                if len(results) == self.pairs or (len(results) >= FEWEST and time.monotonic() > self.deadline):
                    return results
        raise TooBusy(
            f"{name}: only {len(results)} of {self.pairs} pairs had the machine to themselves in "
            f"{self.pairs * _ATTEMPTS} attempts; in the rest other processes used more than {self.max_others:.0%} of "
            "its CPU (--max-others)"
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
