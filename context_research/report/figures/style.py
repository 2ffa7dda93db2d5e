"""What the figures have in common and knows no arms: style, panels, titles, legends, axes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

_STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "hatch.color": "#BBBBBB",
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "context-research",  # ids in an SVG are random otherwise
}


@contextmanager
def style() -> Iterator[None]:
    """While open, figures look like this, whatever a matplotlibrc of the machine says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def save(canvas: mpl.Figure, folder: Path, stem: str) -> None:
    """Write `<stem>.png` and `<stem>.svg`; the same figure gives the same bytes."""
    canvas.savefig(folder / f"{stem}.png", dpi=150)
    canvas.set_layout_engine("none")  # laid out already
    canvas.savefig(folder / f"{stem}.svg", dpi=150, metadata={"Date": None})


def grid(count: int, height: float, columns: int | None = None) -> tuple[mpl.Figure, list[Axes]]:
    """`count` panels, `height` of each in inches, in rows of `columns`: by default 4 at most, few places left empty."""
    if columns is None:
        columns = count if count <= 3 else 2 if count == 4 else min((3, 4), key=lambda number: -count % number)
    rows = -(-count // columns)
    canvas = mpl.Figure(figsize=(max(5.0, min(10.0, 4.2 * columns)), 1.2 + height * rows))
    axes = list(canvas.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return canvas, axes[:count]


def head(canvas: mpl.Figure, title: str, about: str) -> None:
    """Title and `about` on top, outside of what the layout gives to the axes."""
    width, height = canvas.get_size_inches()
    lines = textwrap.wrap(about, int(width * 15)) or [""]
    canvas.text(0.1 / width, 1 - 0.08 / height, title, va="top", fontsize=11, fontweight="bold")
    canvas.text(0.1 / width, 1 - 0.29 / height, "\n".join(lines), va="top", fontsize=8, color="#444444")
    rest = 1 - (0.4 + 0.14 * len(lines)) / height
    canvas.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0, rest), hspace=0.08, wspace=0.06)


def legend(canvas: mpl.Figure, handles: Sequence[Artist], labels: Sequence[str], beneath: str = "") -> None:
    """Under the axes, in as many columns as the longest label leaves room for; `beneath` is text without a handle."""
    room = int(canvas.get_size_inches()[0] * 14)
    wrapped = [textwrap.fill(label, room - 8) for label in labels]
    fits = sum(map(len, labels)) + 8 * len(labels) <= room
    columns = len(labels) if fits else max(1, room // (max(map(len, labels)) + 8))
    title = "\n".join(textwrap.fill(line, room) for line in beneath.splitlines())
    canvas.legend(
        list(handles), wrapped, loc="outside lower center", ncols=columns, title=title or None, title_fontsize=8.5
    )


def value_axis(axis: Axes, values: Sequence[float]) -> None:
    """From 0, or logarithmic where the values differ too much for that."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 5:
        log_ticks(axis.yaxis, low / 1.3, high * 1.3, most=7)
    else:
        axis.set_ylim(min(0.0, low), high * 1.1 or 1.0)


def log_ticks(axis: Axis, low: float, high: float, most: int) -> None:
    """A logarithmic axis over exactly [low, high], with plain numbers that don't overlap."""
    across = axis.axis_name == "x"  # type: ignore[attr-defined]
    (axis.axes.set_xscale if across else axis.axes.set_yscale)("log")
    if high <= low:
        low, high = low / 1.1, high * 1.1
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 3:
        nice = MaxNLocator(min(most, 6), steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in nice if low <= tick <= high and tick > 0]
    ticks = _apart(ticks[:: -(-len(ticks) // most)], low, high, most, across)
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)
    (axis.axes.set_xlim if across else axis.axes.set_ylim)(low, high)


def _apart(ticks: Sequence[float], low: float, high: float, most: int, across: bool) -> list[float]:
    """Without those whose label would touch that of the tick behind it; labels of 4 letters have `most` places."""
    kept: list[float] = []
    for tick in reversed(ticks):
        room = max(1.0, len(f"{tick:g}") / 4) if across else 0.5
        if not kept or np.log(kept[-1] / tick) >= np.log(high / low) / (most + 1) * room:
            kept.append(tick)
    return kept[::-1]
