"""How time to first token and the longest stall are distributed, by class and arm, far into the tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import figure as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from context_research.compare.goodput_map import Floats
from context_research.compare.observations import Arm
from context_research.measure import metrics
from context_research.report.figures.arms import (
    Sheet,
    cases_of,
    classes_of,
    colour,
    counted,
    line,
    name_of,
    requests_of,
    shades,
    slashed,
)
from context_research.report.figures.style import grid, legend, log_ticks
from context_research.request import Timeline

_LATENCIES: tuple[tuple[str, Callable[[Timeline], float | None]], ...] = (
    ("TTFT", metrics.ttft),
    ("longest gap", metrics.stall),
)
_SHARES = (0.0, 0.5, 0.9, 0.99, 0.999)
_POINTS = 1000
"""Of a curve; its last ones, which are the tail, are always drawn."""


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    """A panel for each case and latency; curves in the colour of their class (without classes: of their arm)."""
    panels = [
        (case, name, formula)
        for case in cases_of(arms)
        for name, formula in _LATENCIES
        if any((_values(arm, case, "", formula) > 0).any() for arm in arms)
    ]
    if not panels:
        return []
    canvas, axes = grid(len(panels), height=2.4, columns=2 if len(panels) < 8 else 4)
    classes = classes_of(arms)
    colours = shades(classes)
    for axis, (case, name, formula) in zip(axes, panels, strict=True):
        curves = [
            (values, colours[each] if each else colour(index), line(index))
            for index, arm in enumerate(arms)
            for each in ([own for own in classes if _values(arm, case, own, formula).size] or [""])
            if (values := _values(arm, case, each, formula)).size
        ]
        for values, shade, style in curves:
            _curve(axis, values, shade, style)
        _tail_axis(axis, max(values.size for values, *_ in curves))
        positive = np.concatenate([values[values > 0] for values, *_ in curves])
        log_ticks(axis.xaxis, float(positive.min()) / 1.1, float(positive.max()) * 1.1, most=5)
        counts = slashed(_values(arm, case, "", formula).size for arm in arms)
        axis.set_title(f"{case}\nn = {counts} requests")
        axis.set_xlabel(f"{name} (ms)")
        axis.grid()
    _legend(canvas, arms, classes)
    caption = (
        "Share of the measured requests below a latency: the time to first token (TTFT), and the longest gap between "
        "two tokens of a request. Pooled over units; no intervals. The axis is stretched "
        "towards the tail: 90, 99 and 99.9 % are evenly spaced. A curve ends at its longest request. "
        f"{counted(arms)}."
    )
    return [Sheet("distributions", "Time to first token and stalls, into the tail", canvas, caption)]


def _values(arm: Arm, case: str, class_name: str, formula: Callable[[Timeline], float | None]) -> Floats:
    """In ms, in order; of all classes where none is named."""
    some = (each for each in requests_of(arm, case) if class_name in ("", each.class_name))
    return np.sort([value * 1e3 for each in some if (value := formula(each)) is not None])


def _curve(axis: Axes, values: Floats, shade: str, style: object) -> None:
    ranks = np.arange(values.size)
    if values.size > _POINTS:
        spread = np.linspace(0, values.size - 1, _POINTS // 2).astype(int)
        ranks = np.unique(np.concatenate([spread, ranks[-_POINTS // 2 :]]))
    axis.step(values[ranks], stretched(ranks / values.size), where="post", color=shade, ls=style, lw=1.4)


def stretched(share: Floats) -> Floats:
    """0, 90 %, 99 %, 99.9 % are evenly spaced."""
    return np.asarray(-np.log10(1 - share))


def _tail_axis(axis: Axes, count: int) -> None:
    """Shares that `count` requests can have: the last one of 100 is above 99 %."""
    shares = [share for share in _SHARES if share <= 1 - 1 / count]
    axis.set_yticks(stretched(np.array(shares)), [f"{share * 100:g} %" for share in shares])
    axis.set_ylim(0, np.log10(max(count, 2)) * 1.03)
    axis.set_ylabel("share of requests below")


def _legend(canvas: mpl.Figure, arms: Sequence[Arm], classes: Sequence[str]) -> None:
    colours = shades(classes)
    handles = [Line2D([], [], color=colours[name], lw=3) for name in classes]
    lines = [Line2D([], [], color="#444444" if classes else colour(i), ls=line(i)) for i in range(len(arms))]
    names = [name_of(arms, index) for index in range(len(arms))]
    legend(canvas, [*handles, *lines], [*classes, *names])
