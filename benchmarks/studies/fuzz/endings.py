"""One spoilt input tried: it works, or it is one line and an exit status of 2; a traceback is a defect."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal
from unittest.mock import patch

import click
from click.testing import CliRunner

from context_research.cli.main import main as commands
from context_research.errors import UsageProblem
from context_research.settings.options import SIMULATED_OPT_IN

Ending = Literal["works", "one line", "TRACEBACK", "NOT ONE LINE"]


@dataclass(frozen=True, slots=True)
class Defect:
    """`what` names the input, `told` is the traceback or what was said instead of one line."""

    kind: str
    number: int
    what: str
    told: str


@dataclass(slots=True)
class Tally:
    """How the inputs of one kind ended; `slowest` in seconds."""

    kind: str
    endings: dict[Ending, int] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def inputs(self) -> int:
        return sum(self.endings.values())


Beat = Callable[[], None]
Attempt = Callable[[Random], tuple[str, Callable[[], str | None]]]
"""Spoils an input: what it is, and a call that says what a user reads, None where it works. It may raise."""


def run(kind: str, attempt: Attempt, count: int, seed: int, beat: Beat = lambda: None) -> Tally:
    """`count` inputs, each of a generator of its own, so that one of them can be tried again alone."""
    tally = Tally(kind)
    for number in range(count):
        what, call = attempt(Random(f"{seed}:{kind}:{number}"))
        began = time.perf_counter()
        ending, told = _ending(call)
        tally.slowest = max(tally.slowest, time.perf_counter() - began)
        tally.endings[ending] = tally.endings.get(ending, 0) + 1
        if ending in ("TRACEBACK", "NOT ONE LINE"):
            tally.defects.append(Defect(kind, number, what, told))
        beat()
    return tally


def _ending(call: Callable[[], str | None]) -> tuple[Ending, str]:
    try:
        told = call()
    except UsageProblem as problem:
        told = str(problem)
    except Exception:  # what is looked for
        return "TRACEBACK", traceback.format_exc()
    if told is None:
        return "works", ""
    return ("one line", told) if told and len(told.splitlines()) == 1 else ("NOT ONE LINE", told)


def command(*arguments: str) -> str | None:
    """What a `context-research` command says of wrong input, None where it works. Raises what it let through."""
    with patch.dict(os.environ, {SIMULATED_OPT_IN: "1"}):
        ended = CliRunner().invoke(commands, arguments)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    if ended.exit_code == 0:
        return None
    errors = [line for line in ended.stderr.splitlines() if line.startswith(("ERROR: ", "Error: "))]
    return ended.stderr if len(errors) != 1 or ended.stdout else errors[0]


def worked(read: object) -> None:
    """Where what was read is all that was asked."""
    del read


def table(tallies: list[Tally]) -> None:
    """One line a kind, then each defect."""
    click.echo("| inputs | tried | work | one line | traceback | not one line | slowest (s) |")
    click.echo("| -- | -- | -- | -- | -- | -- | -- |")
    for tally in tallies:
        counts = [str(tally.endings.get(ending, 0)) for ending in ("works", "one line", "TRACEBACK", "NOT ONE LINE")]
        click.echo(f"| {tally.kind} | {tally.inputs} | {' | '.join(counts)} | {tally.slowest:.1f} |")
    for tally in tallies:
        for defect in tally.defects:
            click.echo(f"\n{defect.kind} {defect.number}: {defect.what[:500]}\n{defect.told[-3000:]}")
