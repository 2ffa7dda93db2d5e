"""Goodput: which arm serves more within both limits, TTFT and TPOT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from context_research.compare import goodput_map
from context_research.compare.observations import Arm
from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.report.figures.arms import COLOURS, Sheet, name_of, plural, slashed
from context_research.report.figures.style import grid, legend, log_ticks

_GREY = "#D0D0D0"


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    found = goodput_map.maps(*arms) if len(arms) == 2 else []
    if not found:
        return []
    canvas, axes = grid(len(found), height=2.5)
    for axis, one, outcome in zip(axes, found, goodput_map.decide(found), strict=True):
        axis.patch.set(hatch="////", facecolor="white")
        cells = np.where(one.served, outcome, np.nan)
        colours = ListedColormap([COLOURS[0], _GREY, COLOURS[1]])
        edges = one.edges(one.ttft) * 1e3, one.edges(one.tpot) * 1e3
        axis.pcolormesh(*edges, cells, cmap=colours, vmin=-1, vmax=1, rasterized=True)  # 576 cells bloat an SVG
        log_ticks(axis.xaxis, edges[0][0], edges[0][-1], most=5)
        log_ticks(axis.yaxis, edges[1][0], edges[1][-1], most=5)
        axis.set_title(f"{one.case}\nn = {slashed(one.requests)} requests, {plural(one.pairs, 'pair')}")
        axis.set_xlabel("TTFT limit (ms)")
        axis.set_ylabel("TPOT limit (ms)")
    handles = [Patch(color=colour) for colour in (*COLOURS, _GREY)]
    handles.append(Patch(facecolor="white", edgecolor="#999999", hatch="////"))
    labels = [f"more from the {name_of(arms, index)}" for index in range(2)]
    legend(canvas, handles, [*labels, "undecided or equal", "neither serves any"])
    few = any(one.pairs < MIN_PAIRS for one in found)
    note = f" With fewer than {MIN_PAIRS} pairs every cell is undecided." if few else ""
    judged = slashed(sum(one.requests[index] for one in found) for index in range(2))
    caption = (
        "Which arm serves more requests per second within both limits (TTFT and TPOT). Coloured where a sign-flip test "
        f"of the units' differences decides, {ALPHA:.0%} false discoveries over all cells of all panels.{note} "
        f"Measured requests: {judged}."
    )
    return [Sheet("goodput", "Goodput: which arm serves more within both limits", canvas, caption)]
