"""Goodput: how much more either arm serves within both limits, TTFT and TPOT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import figure as mpl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from context_research.compare import capacity_map, goodput_map
from context_research.compare.goodput_map import Floats, Map
from context_research.compare.observations import Arm
from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.measure.capacity import by_load
from context_research.report.figures.arms import (
    COLOURS,
    Sheet,
    axes_of,
    name_of,
    plural,
    short_names,
    shortened,
    slashed,
)
from context_research.report.figures.style import grid, legend, log_ticks

_NONE = "#BDBDBD"
"""Neither arm serves any."""
_SCALES = (0.1, 0.2, 0.5, 1.0)
"""Ends of the colour scale."""
_PALE = 0.45
_COLOURS = LinearSegmentedColormap.from_list("goodput", [COLOURS[0], "#FFFFFF", COLOURS[1]])


@dataclass(frozen=True, slots=True)
class _What:
    """What a map is of, in words."""

    stem: str
    title: str
    values: str
    none: str
    more: str


_GOODPUT = _What(
    "goodput",
    "Goodput: how much more is served within both limits",
    "Requests per second and device within both limits (TTFT and TPOT)",
    "neither serves any",
    "more from",
)
_CAPACITY = _What(
    "capacity-map",
    "Capacity: how much more is carried",
    "Capacity per device within both limits (TTFT and TPOT), from the grid of rates and at most its highest",
    "neither carries the lowest rate",
    "carries more:",
)


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    """A figure for each candidate beside the first arm; of simulated ones no cell is judged.

    Of a grid of rates there is one of capacity instead.
    """
    loads = by_load((case, axes_of(arms, case)) for case in arms[0].cases)
    gridded = {case for cases in loads.values() if len(cases) > 1 for case in cases}
    return _sheets([arm.without(gridded) for arm in arms], goodput_map.maps, _GOODPUT)


def draw_capacity(arms: Sequence[Arm]) -> list[Sheet]:
    """The same of capacities, where the cases are a grid of rates. Overloaded ones belong to it."""
    return _sheets(arms, capacity_map.maps, _CAPACITY)


def _sheets(arms: Sequence[Arm], maps: Callable[[Arm, Arm], Sequence[Map]], what: _What) -> list[Sheet]:
    return [
        sheet
        for number, candidate in enumerate(arms[1:], 1)
        for sheet in _sheet(arms, number, maps(arms[0], candidate), what)
    ]


def _sheet(arms: Sequence[Arm], number: int, found: Sequence[Map], what: _What) -> Iterator[Sheet]:
    if not found:
        return
    canvas, axes = grid(len(found), height=2.6)
    gains, judged = [one.gain for one in found], arms[0].measured
    largest = max(float(np.abs(gain).max()) for gain in gains)
    end = next(scale for scale in _SCALES if scale >= min(largest, 1.0))
    decided = [outcome != 0 for outcome in goodput_map.decide(found)] if judged else [gain != 0 for gain in gains]
    for axis, one, gain, cells in zip(axes, found, gains, decided, strict=True):
        _panel(axis, one, gain, cells, end)
    short = short_names(arms)
    _scale(canvas, axes, end, f"{short[number]} − {short[0]}")
    _explain(canvas, found, [name_of(arms, index) for index in (0, number)], judged, what)
    stem, title = what.stem, what.title
    if len(arms) > 2:
        stem, title = f"{stem}-{number}", f"{title}: {shortened(arms[number].label, 40)}"
    yield Sheet(stem, title, canvas, _caption(found, judged, what))


def _panel(axis: Axes, one: Map, gain: Floats, decided: NDArray[np.bool_], end: float) -> None:
    """The limits' cells: full colours where it is decided who serves more, pale and hatched where not."""
    edges = one.edges(one.ttft) * 1e3, one.edges(one.tpot) * 1e3
    open_cells = one.served & ~decided & (gain != 0)
    shown = np.where(open_cells, gain * _PALE, gain)
    axis.patch.set_facecolor(_NONE)
    cells = np.where(one.served, shown, np.nan)
    axis.pcolormesh(*edges, cells, cmap=_COLOURS, vmin=-end, vmax=end, rasterized=True)  # so many bloat an SVG
    if open_cells.any():
        hatched = np.where(open_cells, gain, np.nan)
        axis.pcolor(*edges, hatched, hatch="//////", facecolor="none", edgecolor="#999999", lw=0, rasterized=True)
    log_ticks(axis.xaxis, edges[0][0], edges[0][-1], most=4)
    log_ticks(axis.yaxis, edges[1][0], edges[1][-1], most=5)
    for limit, line in ((one.slo.ttft, axis.axvline), (one.slo.tpot, axis.axhline)):
        if limit is not None:
            line(limit * 1e3, color="black", lw=1.1, ls=(0, (3, 2)))
    if one.slo.ttft is not None and one.slo.tpot is not None:
        axis.plot([one.slo.ttft * 1e3], [one.slo.tpot * 1e3], "*", color="black", mec="white", ms=10, clip_on=False)
    axis.set_title(f"{one.case}\nn = {slashed(one.requests)} requests, {plural(one.pairs, 'pair')}")
    axis.set_xlabel("TTFT limit (ms)")
    axis.set_ylabel("TPOT limit (ms)")


def _scale(canvas: mpl.Figure, axes: Sequence[Axes], end: float, difference: str) -> None:
    """Of the colours, at the right."""
    shades = ScalarMappable(Normalize(-end, end), _COLOURS)
    bar = canvas.colorbar(shades, ax=list(axes), format=PercentFormatter(1.0, decimals=0), aspect=30, pad=0.02)
    bar.set_label(f"{difference},\nof the most in the panel")


def _explain(canvas: mpl.Figure, found: Sequence[Map], names: Sequence[str], judged: bool, what: _What) -> None:
    """What else there is, below."""
    handles: list[Patch | Line2D] = [Patch(color=COLOURS[0]), Patch(color=COLOURS[1])]
    labels = [f"{what.more} {names[0]}", f"{what.more} {names[1]}"]
    if judged:
        handles.append(Patch(facecolor="#F4F4F4", edgecolor="#999999", hatch="//////", lw=0))
        labels.append("undecided")
    handles.append(Patch(color=_NONE))
    labels.append(what.none)
    handles.append(Patch(facecolor="white", edgecolor="#999999", lw=0.6))
    labels.append("both the same")
    if any(one.slo.ttft is not None or one.slo.tpot is not None for one in found):
        star = "*" if any(one.slo.ttft is not None and one.slo.tpot is not None for one in found) else ""
        handles.append(Line2D([], [], color="black", lw=1.1, ls=(0, (3, 2)), marker=star, mec="white", ms=10))
        labels.append("the SLO that was given")
    legend(canvas, handles, labels)


def _caption(found: Sequence[Map], judged: bool, what: _What) -> str:
    few = any(one.pairs < MIN_PAIRS for one in found)
    test = (
        " In full colour where a sign-flip test of the units' differences decides, "
        f"{ALPHA:.0%} false discoveries (Benjamini-Hochberg) over all cells of all panels; it is a map, no verdict."
        + (f" With fewer than {MIN_PAIRS} pairs every cell is undecided." if few else "")
        if judged
        else " Nothing was measured, so no cell is judged."
    )
    counted = slashed(sum(one.requests[index] for one in found) for index in range(2))
    return (
        f"{what.values}, candidate − baseline, as a share of the most in the panel at any limits.{test} "
        f"Requests: {counted}."
    )
