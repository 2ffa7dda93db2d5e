"""Draws the figures of a run or of a comparison, as PNG and SVG, from the observed requests alone.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. A figure without data is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from context_research.compare.observations import Arm
from context_research.compare.verdict import Findings
from context_research.records import store
from context_research.report.figures import (
    capacity,
    distributions,
    forest,
    gaps,
    goodput,
    latency,
    over_time,
    waterfall,
)
from context_research.report.figures.arms import Sheet
from context_research.report.figures.style import head, save, style


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn figure, `<stem>.png` and `<stem>.svg`; the caption says what intervals mean and how many samples."""

    stem: str
    title: str
    caption: str


def draw(arms: Sequence[Arm], folder: Path, about: str, findings: Findings | None = None) -> list[Figure]:
    """Draw one arm, or a baseline and its candidates, into `folder`; `findings` are what was judged of them, drawn
    first. `about` is shown in every figure: what was measured.

    Raises StorageFailure.
    """
    found = []
    with style(), store.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for sheet in _sheets(arms, findings):
            head(sheet.canvas, sheet.title, about)
            save(sheet.canvas, folder, sheet.stem)
            found.append(Figure(sheet.stem, sheet.title, sheet.caption))
    return found


def _sheets(arms: Sequence[Arm], findings: Findings | None) -> Iterator[Sheet]:
    """One after the other, as each takes memory."""
    if findings is not None:
        yield from forest.draw(findings)
    overloaded = {case for arm in arms for case in arm.overloaded}
    steady = [arm.without(overloaded) for arm in arms]
    by_class = [arm.by_class() for arm in steady]
    yield from capacity.draw(arms)
    yield from latency.draw(by_class)
    yield from over_time.draw(arms)
    yield from distributions.draw(steady)
    yield from waterfall.draw(by_class)
    yield from gaps.draw(by_class)
    yield from goodput.draw(by_class)
    yield from goodput.draw_capacity([arm.by_class() for arm in arms])
