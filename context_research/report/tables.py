"""How reports show tables, quantities and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

if TYPE_CHECKING:
    from context_research.report.figures.drawing import Figure

SCALES = {"s": (1e3, "ms"), "B/s": (1e-9, "GB/s"), "1/s": (1.0, "1/s"), "share": (100.0, "%")}
"""Unit of a metric -> factor to, and name of, the unit that readers get."""


def table(rows: Iterable[Sequence[Any]], header: tuple[str, ...]) -> str:
    """A Markdown table."""
    # A bar inside a cell would end it, a line break the row.
    heads, *cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in (header, *rows))
    return str(tabulate(cells, headers=heads, tablefmt="github", disable_numparse=True))


def scaled(value: float | None, scale: float) -> str:
    """Three digits, or as many as the integer part has; a dash for None."""
    return "–" if value is None else f"{value * scale:.3g}" if abs(value * scale) < 100 else f"{value * scale:.0f}"


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit: ``32.1 ms``."""
    scale, name = SCALES.get(unit, (1.0, unit))
    return "–" if value is None else f"{scaled(value, scale)} {name}"


def ratios(*values: float | None, least: int = 0) -> list[str]:
    """A ratio and its interval's ends, with as many decimals as three figures take (near 1, where what counts is how
    far from it they are, four), and at least `least`; a dash for None."""
    known = [value for value in values if value]
    decimals = max(least, *map(_decimals, known), 0)
    return ["–" if value is None else f"{value:.{decimals}f}" for value in values]


def _decimals(ratio: float) -> int:
    return 3 if 0.9 < ratio < 1.1 else min(max(2 - math.floor(math.log10(ratio)), 0), 6)


def images(drawn: Sequence[Figure], folder: str) -> str:
    """The section of figures, each with its title."""
    shown = (f"### {figure.title}\n\n{image(figure, folder)}" for figure in drawn)
    return "\n\n".join(("## Figures", *shown)) if drawn else ""


def image(figure: Figure, folder: str) -> str:
    """A figure with its caption: the PNG shown, the SVG linked."""
    return f"![{figure.title}]({folder}/{figure.stem}.png)\n\n{figure.caption} ([SVG]({folder}/{figure.stem}.svg))"
