"""One pass of a case over time: each request's TTFT at its arrival, requests in flight, KV cache in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import figure as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from context_research.compare.goodput_map import Floats
from context_research.compare.observations import Arm
from context_research.measure import metrics
from context_research.measure.capacity import load_of
from context_research.measure.metrics import Repeat
from context_research.report.figures.arms import Sheet, axes_of, classes_of, name_of, plural, shades, slashed, tokens
from context_research.report.figures.style import legend, log_ticks
from context_research.request import Timeline

_OUTSIDE = "#EFEFEF"
_ENGINES = ("#000000", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#999999")
_LONG = 0.95
"""Where lengths vary without classes: the quantile of prompts from which a request is marked as long."""
_FEW_RATES = 3
_BINS = 1200
"""Of the time axis: more than there are pixels across a panel."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Requests that look alike."""

    label: str
    colour: str
    long: bool = False
    class_name: str | None = None
    """None: of any."""
    over: int = 0
    up_to: float = float("inf")
    """Tokens of their prompts."""

    def has(self, timeline: Timeline) -> bool:
        own = self.class_name in (None, timeline.class_name)
        return own and self.over < timeline.prompt_tokens <= self.up_to


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    """A figure for each case whose requests arrive at moments of their own, or are of classes; arms side by side.

    None of a grid of many rates: what it shows is in figures of the whole grid.
    """
    cases = dict.fromkeys(case for arm in arms for case in arm.cases)
    rated = [case for case in cases if load_of(axes_of(arms, case)) is not None]
    return [
        _sheet(arms, case, passes)
        for case in cases
        if (len(rated) <= _FEW_RATES or case not in rated)
        and (passes := _passes(arms, case))
        and any(one is not None and (one.timed or one.classes) for one in passes)
    ]


def _passes(arms: Sequence[Arm], case: str) -> list[Repeat | None]:
    """The first pass of each arm, of a unit that all have: a pair's requests are the same, at the same moments."""
    for number in range(max(len(arm.units) for arm in arms)):
        found = [next(iter(arm.units[number].get(case, ())), None) if number < len(arm.units) else None for arm in arms]
        if all(one is not None and one.timelines for one in found):
            return found
    return [next((one for one in arm.repeats(case) if one.timelines), None) for arm in arms]


def _sheet(arms: Sequence[Arm], case: str, passes: Sequence[Repeat | None]) -> Sheet:
    shown = [(index, one) for index, one in enumerate(passes) if one is not None]
    groups = _groups([timeline for _, one in shown for timeline in one.served], classes_of(arms))
    engines = list(dict.fromkeys(engine for _, one in shown for engine in one.kv_usage))
    rows = 3 if engines else 2
    canvas = mpl.Figure(figsize=(8.0 if len(shown) == 1 else max(10.0, 4.0 * len(shown)), 1.2 + 1.0 + 1.5 * rows))
    heights = [2.0, 1.2, 1.2][:rows]
    axes = canvas.subplots(rows, len(shown), sharex=True, sharey="row", squeeze=False, height_ratios=heights)
    origins = [min(timeline.scheduled for timeline in one.served) for _, one in shown]
    ends = [_end(one) - origin for (_, one), origin in zip(shown, origins, strict=True)]
    for column, ((index, one), origin) in enumerate(zip(shown, origins, strict=True)):
        top, middle = axes[0][column], axes[1][column]
        _first_tokens(top, one, origin, groups)
        _in_flight(middle, one, origin, groups, max(ends))
        if engines:
            _kv(axes[2][column], one, origin, engines)
        for axis in axes[:, column]:
            _outside(axis, one, origin, max(ends))
        top.set_title(f"{name_of(arms, index)}{', overloaded' if case in arms[index].overloaded else ''}")
        axes[-1][column].set_xlabel("seconds since the first request was due")
    _scale(axes, [metrics.ttft(t) * 1e3 for _, one in shown for t in one.served if t.token_times], max(ends))
    for row, label in zip(axes, ("TTFT (ms)", "requests in flight", "KV cache in use (%)"), strict=False):
        row[0].set_ylabel(label)
    _legend(canvas, groups, engines, any(one.timed for _, one in shown))
    return Sheet(f"time-{case}", f"{case}, over time", canvas, _caption(arms, shown, groups))


def _groups(timelines: Sequence[Timeline], classes: Sequence[str]) -> list[_Group]:
    """By class, the last of `classes` that of long prompts; without any the longest prompts apart, if they differ."""
    names = [name for name in ("", *classes) if any(timeline.class_name == name for timeline in timelines)]
    if names != [""]:
        colours = {**shades(classes), "": "#999999"}
        long = names[-1] if len(names) > 1 else None
        return [_Group(name or "without a class", colours[name], name == long, name) for name in names]
    usual, marked = shades(["", "long"]).values()
    lengths = np.array([timeline.prompt_tokens for timeline in timelines])
    if lengths.max() < 2 * np.median(lengths):
        return [_Group("requests", usual)]
    limit = int(np.quantile(lengths, _LONG))
    return [
        _Group(f"prompts up to {tokens(limit)} tokens", usual, up_to=limit),
        _Group("longer ones", marked, long=True, over=limit),
    ]


def _end(one: Repeat) -> float:
    return max(one.ended, *(timeline.finished or timeline.scheduled for timeline in one.served))


def _first_tokens(axis: Axes, one: Repeat, origin: float, groups: Sequence[_Group]) -> None:
    served = [timeline for timeline in one.served if timeline.token_times]
    for group in groups:
        own = [timeline for timeline in served if group.has(timeline)]
        x = [timeline.scheduled - origin for timeline in own]
        y = [metrics.ttft(timeline) * 1e3 for timeline in own]
        if group.long:
            size = float(np.clip(6000 / max(len(own), 1), 12, 42))
            axis.scatter(x, y, s=size, marker="^", color=group.colour, ec="white", lw=0.5, zorder=3, rasterized=True)
        else:
            size = float(np.clip(4000 / max(len(own), 1), 2, 14))
            alpha = float(np.clip(600 / max(len(own), 1), 0.2, 0.75))
            axis.scatter(x, y, s=size, color=group.colour, alpha=alpha, lw=0, zorder=2, rasterized=True)


def _in_flight(axis: Axes, one: Repeat, origin: float, groups: Sequence[_Group], end: float) -> None:
    """Requests that were due and had not ended, stacked; of each bin of time the most."""
    edges = np.linspace(0, end, _BINS + 1)
    below = np.zeros(_BINS)
    for group in reversed(groups):  # the long ones lie at the bottom, where they can be read off
        own = [timeline for timeline in one.served if group.has(timeline)]
        top = below + level(own, origin, edges)
        axis.stairs(top, edges, baseline=below, fill=True, color=group.colour, alpha=0.8, lw=0, rasterized=True)
        below = top


def level(timelines: Sequence[Timeline], origin: float, edges: Floats) -> Floats:
    """How many are in flight, at most, between every two edges; what failed or never ended stays."""
    due = np.sort([timeline.scheduled - origin for timeline in timelines])
    ended = np.sort([t.finished - origin for t in timelines if t.complete and t.finished is not None])
    moments = np.unique(np.concatenate([edges, due]))
    found = np.searchsorted(due, moments, "right") - np.searchsorted(ended, moments, "right")
    bins = np.clip(np.searchsorted(edges, moments, "right") - 1, 0, edges.size - 2)
    most = np.zeros(edges.size - 1)
    np.maximum.at(most, bins, found)
    return most


def _kv(axis: Axes, one: Repeat, origin: float, engines: Sequence[str]) -> None:
    for number, engine in enumerate(engines):
        if points := one.kv_usage.get(engine):
            at, share = np.array(points).T
            colour = _ENGINES[number % len(_ENGINES)]
            axis.step(at - origin, share * 100, where="post", color=colour, lw=1.0, rasterized=at.size > _BINS)


def _outside(axis: Axes, one: Repeat, origin: float, end: float) -> None:
    """What is before and after the window is shaded."""
    for low, high in ((0.0, one.started - origin), (one.ended - origin, end)):
        if high > low:
            axis.axvspan(low, high, color=_OUTSIDE, lw=0, zorder=0)
    axis.grid(True, axis="y")


def _scale(axes: Any, values: Sequence[float], end: float) -> None:
    first = axes[0][0]
    first.set_xlim(0, end)
    log_ticks(first.yaxis, max(min(values), 1e-3) / 1.3, max(values) * 1.3, most=7)
    axes[1][0].set_ylim(bottom=0)
    axes[1][0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(axes) > 2:
        axes[2][0].set_ylim(0, max(1.0, axes[2][0].get_ylim()[1]))


def _legend(canvas: mpl.Figure, groups: Sequence[_Group], engines: Sequence[str], windowed: bool) -> None:
    handles: list[Artist] = [
        Line2D([], [], ls="", marker="^" if group.long else "o", ms=6 if group.long else 4, color=group.colour)
        for group in groups
    ]
    handles += [Line2D([], [], color=_ENGINES[number % len(_ENGINES)]) for number in range(len(engines))]
    labels = [*(group.label for group in groups), *(f"KV of {engine}" for engine in engines)]
    if windowed:
        handles.append(Patch(color=_OUTSIDE))
        labels.append("outside the measured window")
    legend(canvas, handles, labels)


def _caption(arms: Sequence[Arm], shown: Sequence[tuple[int, Repeat]], groups: Sequence[_Group]) -> str:
    counts = slashed(len(one.served) for _, one in shown)
    units = max(len(arm.units) for arm in arms)
    of = f"the first pass of {plural(units, 'unit')}" if units > 1 else "the case's first pass"
    same = (
        f", the same requests at the same moments in {'both' if len(shown) == 2 else 'all'} arms"
        if len(shown) > 1
        else ""
    )
    long = next((f" Triangles: {group.label}." for group in groups if group.long), "")
    return (
        f"Above: time to first token of each request, at the moment when it was due.{long} Below: requests that were "
        "due and had not ended, stacked, and the share of each engine's KV cache in use, where it was counted. Shaded: "
        f"before and after the measured window. Shown is {of}{same}; {counts} requests."
    )
