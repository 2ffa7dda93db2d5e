"""Latency by prompt length, or by what else was varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, median_low

import numpy as np
from matplotlib import figure as mpl
from matplotlib.axes import Axes
from pydantic import JsonValue
from scipy import stats

from context_research.compare.observations import CLASS, Arm
from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.measure import metrics
from context_research.measure.capacity import RATE
from context_research.report.figures.arms import (
    Sheet,
    arm_legend,
    axes_of,
    cases_of,
    colour,
    counted,
    marker,
    requests_of,
    tokens,
    turned,
)
from context_research.report.figures.style import value_axis
from context_research.request import Timeline

PROMPT = "prompt_tokens"
"""Its axis is always the one along which cases are drawn."""
_TITLES = {PROMPT: "prompt length"}
Formula = Callable[[Timeline], float | None]
"""A request's latency in seconds."""


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    along = _along(arms)
    columns = _columns(arms, along)
    rows: list[tuple[str, Formula]] = [("TTFT", metrics.ttft), ("TPOT", metrics.tpot)]
    rows = [row for row in rows if any(_medians(arm, case, row[1]) for arm in arms for case in arm.cases)]
    if not columns or not rows:
        return []
    canvas = mpl.Figure(figsize=(max(5.0, min(10.0, 1 + 3 * len(columns))), 0.9 + 2.6 * len(rows)))
    axes = canvas.subplots(len(rows), len(columns), sharey="row", sharex="col", squeeze=False)
    aside = min(0.08 * (len(arms) - 1), 0.24)
    shifts = np.linspace(-aside, aside, len(arms))
    for (name, formula), line in zip(rows, axes, strict=True):
        seen = [
            value
            for axis, column in zip(line, columns, strict=True)
            for index, arm in enumerate(arms)
            for value in _points(axis, column, arm, index, float(shifts[index]), formula)
        ]
        value_axis(line[0], seen)
        line[0].set_ylabel(f"{name} (ms)")
    for top, bottom, column in zip(axes[0], axes[-1], columns, strict=True):
        counts = [len(requests_of(arm, case)) for arm in arms for case in column.places if case in arm.cases]
        span = "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
        top.set_title(f"{column.title}\nn = {span} requests")
        crowded = len(column.ticks) * len(columns) > 20 or any(len(label) > 6 for label in column.ticks.values())
        bottom.set_xticks(list(column.ticks), list(column.ticks.values()), **turned(crowded))
        bottom.set_xlim(min(column.ticks) - 0.6, max(column.ticks) + 0.6)
        bottom.set_xlabel(column.label)
    arm_legend(canvas, arms, points=True)
    spread = f"Dots: the single units; fewer than {MIN_PAIRS} give no interval."
    if not arms[0].measured:
        spread = "Dots: the single units; simulated, so without an interval."
    elif max(len(arm.units) for arm in arms) >= MIN_PAIRS:
        spread = f"Bars: exact {1 - ALPHA:.0%} interval of that median over the units (order statistics)."
    caption = (
        "Median over the units of each unit's median request: time to first token (TTFT) and time per output token "
        f"(TPOT). {spread} n: the requests behind a point. {counted(arms)}."
    )
    return [Sheet("latency", f"Latency by {_TITLES.get(along, along.replace('_', ' '))}", canvas, caption)]


@dataclass(frozen=True, slots=True)
class _Column:
    """The cases of one point of the other axes, at their places along the x axis."""

    title: str
    label: str
    places: dict[str, float]
    ticks: dict[float, str]

    @property
    def joined(self) -> bool:
        """Whether its cases are points of one axis: classes are not."""
        return self.label not in ("case", CLASS)


def _along(arms: Sequence[Arm]) -> str:
    """The axis that is drawn from left to right: prompt tokens (the rate, where that alone varies), else the first that
    varies; ``case`` without any."""
    values: dict[str, list[JsonValue]] = {}
    for case in cases_of(arms):
        for axis, value in axes_of(arms, case).items():
            values.setdefault(axis, []).append(value)
    varied = [axis for axis, some in values.items() if axis != CLASS and any(each != some[0] for each in some)]
    if RATE in varied and PROMPT not in varied:
        return RATE
    return PROMPT if PROMPT in values else next(iter(varied), CLASS if CLASS in values else "case")


def _columns(arms: Sequence[Arm], along: str) -> list[_Column]:
    """One for each point of the axes but `along`; cases that have not this axis come last, together."""
    columns: dict[tuple[tuple[str, JsonValue], ...], list[str]] = {}
    others: list[str] = []
    for case in cases_of(arms):
        axes = axes_of(arms, case)
        if along in axes:
            columns.setdefault(tuple(item for item in axes.items() if item[0] != along), []).append(case)
        else:
            others.append(case)
    found = []
    for point, cases in sorted(columns.items(), key=lambda item: _order(item[0])):
        title = ", ".join(f"{axis.replace('_', ' ')} {value}" for axis, value in point)
        found.append(_Column(title, along.replace("_", " "), *_places(arms, along, cases)))
    if others:
        at = {case: float(index) for index, case in enumerate(others)}
        title = "other cases" if columns else "all cases"
        found.append(_Column(title, "case", at, {place: case for case, place in at.items()}))
    return found


def _places(arms: Sequence[Arm], along: str, cases: Sequence[str]) -> tuple[dict[str, float], dict[float, str]]:
    """Of the cases of one column, and their ticks: at log2 of their prompts, else in their order, evenly."""
    if along == PROMPT:
        sent = {case: [each for arm in arms for each in requests_of(arm, case)] for case in cases}
        counts = {case: median_low(each.prompt_tokens for each in some) for case, some in sent.items()}
        places = {case: float(np.log2(count)) for case, count in counts.items()}
        return places, {places[case]: tokens(count) for case, count in counts.items()}
    values = {case: axes_of(arms, case)[along] for case in cases}
    ordered = sorted(cases, key=lambda case: _order([(along, values[case])]))
    return {case: float(at) for at, case in enumerate(ordered)}, {
        float(at): str(values[case]) for at, case in enumerate(ordered)
    }


def _order(others: Sequence[tuple[str, JsonValue]]) -> list[tuple[float, str]]:
    """Numbers in their order, words in theirs."""
    return [(value, "") if isinstance(value, int | float) else (float("inf"), str(value)) for _, value in others]


def _points(axis: Axes, column: _Column, arm: Arm, index: int, shift: float, formula: Formula) -> list[float]:
    """Draw one arm's points, `shift` aside of their places; every unit's value (ms)."""
    units = {at: found for case, at in column.places.items() if (found := _medians(arm, case, formula))}
    middle = {at + shift: median(units[at]) for at in sorted(units)}
    axis.plot(
        list(middle),
        list(middle.values()),
        color=colour(index),
        marker=marker(index),
        mfc="white",
        ms=5,
        lw=1.2,
        ls="-" if column.joined else "",
    )
    for at, values in units.items():
        if arm.measured and len(values) >= MIN_PAIRS:
            interval = stats.quantile_test(values, q=median(values)).confidence_interval(1 - ALPHA)
            axis.plot([at + shift] * 2, [interval.low, interval.high], color=colour(index), marker="_", ms=6, lw=1.5)
        elif len(values) > 1:
            axis.plot([at + shift] * len(values), values, ".", color=colour(index), ms=4, zorder=3)
    axis.grid(True, axis="y")
    return [value for values in units.values() for value in values]


def _medians(arm: Arm, case: str, formula: Formula) -> list[float]:
    """Each unit's median request (ms), of the units that have one."""
    found = []
    for unit in arm.units:
        timelines = [timeline for repeat in unit.get(case, ()) for timeline in repeat.timelines]
        if values := [value for timeline in timelines if (value := formula(timeline)) is not None]:
            found.append(median(values) * 1e3)
    return found
