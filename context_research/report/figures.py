"""The figures of a run or of a comparison, as PNG and SVG; drawn from the observed requests alone.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. A figure without data is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_low
from typing import Any

import numpy as np
from matplotlib import figure as mpl
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from pydantic import JsonValue
from scipy import stats

from context_research.compare import goodput_map
from context_research.compare.observations import Arm
from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.measure import metrics, waterfall
from context_research.records import store
from context_research.report.style import grid, head, legend, log_ticks, save, style, value_axis
from context_research.request import Timeline

_ARMS = ("#0072B2", "#D55E00")
_ROLES = ("baseline", "candidate")
_LINES = ("-", (0, (4, 1.5)))
_COLOURS = ("#F0E442", "#E69F00", "#0072B2", "#CC79A7", "#56B4E9", "#009E73", "#999999")
_PARTS = dict(zip((*waterfall.PARTS, waterfall.UNATTRIBUTED), _COLOURS, strict=True))
_GREY = "#D0D0D0"
_POINTS = 2000
"""Quantiles that a CDF is drawn from."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn figure, `<stem>.png` and `<stem>.svg`; the caption says what intervals mean and how many samples."""

    stem: str
    title: str
    caption: str


Formula = Callable[[Timeline], float | None]
"""A request's latency in seconds."""
Drawn = tuple[mpl.Figure, str] | None
"""A figure and its caption; None where there is nothing to draw."""


def draw(arms: Sequence[Arm], folder: Path, about: str) -> list[Figure]:
    """Draw one arm, or baseline and candidate, into `folder`. `about` is shown in every figure: what was measured.

    Raises StorageFailure.
    """
    figures: list[tuple[str, str, Callable[[Sequence[Arm]], Drawn]]] = [
        ("latency", "Latency by prompt length", _latency),
        ("waterfall", "Where the time to first token goes", _waterfall),
        ("gaps", "Gaps between tokens", _gaps),
        ("goodput", "Goodput: which arm serves more within both limits", _goodput),
    ]
    found = []
    with style(), store.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stem, title, drawer in figures:
            if drawn := drawer(arms):
                canvas, caption = drawn
                head(canvas, title, about)
                save(canvas, folder, stem)
                found.append(Figure(stem, title, caption))
    return found


def mean_parts(timelines: Sequence[Timeline]) -> dict[str, float]:
    """Mean seconds of each part of TTFT, a part that did not happen counting as 0: they add up to the mean TTFT."""
    each = [waterfall.parts(timeline) for timeline in timelines]
    names = [name for name in _PARTS if any(name in parts for parts in each)]
    return {name: sum(parts.get(name, 0.0) for parts in each) / len(each) for name in names}


@dataclass(frozen=True, slots=True)
class _Column:
    """The cases of one concurrency at log2 of their prompt tokens; cases of other names side by side."""

    title: str
    label: str
    places: dict[str, float]
    ticks: dict[float, str]


def _latency(arms: Sequence[Arm]) -> Drawn:
    columns = _columns(arms)
    rows: list[tuple[str, Formula]] = [("TTFT", metrics.ttft), ("TPOT", metrics.tpot)]
    rows = [row for row in rows if any(_medians(arm, case, row[1]) for arm in arms for case in arm.cases)]
    if not columns or not rows:
        return None
    canvas = mpl.Figure(figsize=(max(5.0, min(10.0, 1 + 3 * len(columns))), 0.9 + 2.6 * len(rows)))
    axes = canvas.subplots(len(rows), len(columns), sharey="row", sharex="col", squeeze=False)
    shifts = (-0.08, 0.08) if len(arms) > 1 else (0.0,)
    for (name, formula), line in zip(rows, axes, strict=True):
        seen = [
            value
            for axis, column in zip(line, columns, strict=True)
            for arm, colour, shift in zip(arms, _ARMS, shifts, strict=False)
            for value in _points(axis, column, arm, colour, shift, formula)
        ]
        value_axis(line[0], seen)
        line[0].set_ylabel(f"{name} (ms)")
    for top, bottom, column in zip(axes[0], axes[-1], columns, strict=True):
        counts = [len(_requests(arm, case)) for arm in arms for case in column.places if case in arm.cases]
        span = "–".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
        top.set_title(f"{column.title}\nn = {span} requests")
        crowded = len(column.ticks) * len(columns) > 20 or any(len(label) > 6 for label in column.ticks.values())
        bottom.set_xticks(list(column.ticks), list(column.ticks.values()), **_turned(crowded))
        bottom.set_xlim(min(column.ticks) - 0.6, max(column.ticks) + 0.6)
        bottom.set_xlabel(column.label)
    _arm_legend(canvas, arms, ls="-", marker="o", mfc="white")
    spread = f"Dots: the single units; fewer than {MIN_PAIRS} give no interval."
    if max(len(arm.units) for arm in arms) >= MIN_PAIRS:
        spread = f"Bars: exact {1 - ALPHA:.0%} interval of that median over the units (order statistics)."
    return canvas, (
        "Median over the units of each unit's median request: time to first token (TTFT) and time per output token "
        f"(TPOT). {spread} n: the requests behind a point. {_counted(arms)}."
    )


def _columns(arms: Sequence[Arm]) -> list[_Column]:
    """One for each point of the axes but the prompt length; cases that no axis is known of come last, together."""
    columns: dict[tuple[tuple[str, JsonValue], ...], dict[str, int]] = {}
    for case in _cases(arms):
        others = tuple((axis, value) for axis, value in _axes(arms, case).items() if axis != "prompt_tokens")
        tokens = median_low(timeline.prompt_tokens for arm in arms for timeline in _requests(arm, case))
        columns.setdefault(others, {})[case] = tokens
    found = []
    for others, cases in sorted(columns.items(), key=lambda item: (not item[0], _order(item[0]))):
        if not others:
            at = {case: float(index) for index, case in enumerate(cases)}
            found.append(_Column("other cases", "case", at, {place: case for case, place in at.items()}))
        else:
            places = {case: float(np.log2(tokens)) for case, tokens in cases.items()}
            ticks = {places[case]: _tokens(tokens) for case, tokens in cases.items()}
            title = ", ".join(f"{axis.replace('_', ' ')} {value}" for axis, value in others)
            found.append(_Column(title, "prompt tokens", places, ticks))
    return found


def _axes(arms: Sequence[Arm], case: str) -> Mapping[str, JsonValue]:
    return next((arm.axes[case] for arm in arms if case in arm.axes), {})


def _order(others: Sequence[tuple[str, JsonValue]]) -> list[tuple[float, str]]:
    """Numbers in their order, words in theirs."""
    return [(value, "") if isinstance(value, int | float) else (float("inf"), str(value)) for _, value in others]


def _turned(crowded: bool) -> Any:
    """How labels stand that would run into each other."""
    return {"rotation": 30, "ha": "right"} if crowded else {}


def _points(axis: Axes, column: _Column, arm: Arm, colour: str, shift: float, formula: Formula) -> list[float]:
    """Draw one arm's points, `shift` aside of their places; every unit's value (ms)."""
    units = {at: found for case, at in column.places.items() if (found := _medians(arm, case, formula))}
    middle = {at + shift: median(units[at]) for at in sorted(units)}
    joined = "-" if column.label == "prompt tokens" else ""
    axis.plot(list(middle), list(middle.values()), color=colour, marker="o", mfc="white", ms=5, lw=1.2, ls=joined)
    for at, values in units.items():
        if len(values) >= MIN_PAIRS:
            interval = stats.quantile_test(values, q=median(values)).confidence_interval(1 - ALPHA)
            axis.plot([at + shift] * 2, [interval.low, interval.high], color=colour, marker="_", ms=6, lw=1.5)
        elif len(values) > 1:
            axis.plot([at + shift] * len(values), values, ".", color=colour, ms=4, zorder=3)
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


def _waterfall(arms: Sequence[Arm]) -> Drawn:
    panels = _bars(arms)
    if not panels:
        return None
    canvas, axes = grid(len(panels), height=2.5)
    shown: set[str] = set()
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        heights = [_stack(axis, at, timelines, shown) for at, timelines in enumerate(bars.values())]
        axis.set_title(f"{title}\nn = {_slashed(map(len, bars.values()))} requests")
        axis.set_xticks(range(len(bars)), list(bars), **_turned(sum(map(len, bars)) > 24))
        axis.set_xlim(-0.7, len(bars) - 0.3)
        axis.set_ylim(top=max(heights) * 1.15 or None)
        axis.axhline(0, color="black", lw=0.8)
        axis.grid(axis="y")
        axis.set_ylabel("mean TTFT (ms)")
    parts = [name for name in _PARTS if name in shown]
    labels = [name.replace("_", " ") for name in parts]
    names = [_name(arms, index) for index in range(len(arms))]
    legend(canvas, [Patch(color=_PARTS[name]) for name in parts], labels, beneath="\n".join(names))
    return canvas, (
        "Mean time to first token by part, over all completed requests; the number on a bar is the mean TTFT in ms. "
        f"Means, as they add up; no intervals. Each panel has its own scale. {_counted(arms)}."
    )


def _bars(arms: Sequence[Arm]) -> dict[str, dict[str, list[Timeline]]]:
    """Panel -> bar -> requests. Two arms stand side by side case by case, one arm's cases by prompt length."""
    panels: dict[str, dict[str, list[Timeline]]] = {}
    for case in _cases(arms):
        if len(arms) > 1:
            found = {role: _requests(arm, case) for role, arm in zip(_ROLES, arms, strict=True)}
            panels[case] = {role: timelines for role, timelines in found.items() if timelines}
        else:
            timelines = _requests(arms[0], case)
            tokens = median_low(timeline.prompt_tokens for timeline in timelines)
            panel = panels.setdefault(f"{_tokens(tokens)} prompt tokens", {})
            panel[case.removeprefix(f"p{_axes(arms, case).get('prompt_tokens')}-")] = timelines
    return panels


def _stack(axis: Axes, at: int, timelines: Sequence[Timeline], shown: set[str]) -> float:
    """Draw one bar, negative parts downwards from 0; its top in ms."""
    parts = {name: seconds * 1e3 for name, seconds in mean_parts(timelines).items()}
    top = bottom = 0.0
    for name, height in parts.items():
        axis.bar(at, height, 0.7, bottom=top if height > 0 else bottom, color=_PARTS[name])
        top, bottom = top + max(height, 0), bottom + min(height, 0)
    shown.update(parts)
    axis.annotate(_short(sum(parts.values())), (at, top), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    return top


def _gaps(arms: Sequence[Arm]) -> Drawn:
    cases = {case: [_case_gaps(arm, case) for arm in arms] for case in _cases(arms)}
    drawable = {case: gaps for case, gaps in cases.items() if any((each > 0).any() for each in gaps)}
    if not drawable:
        return None
    canvas, axes = grid(len(drawable), height=2.3)
    for axis, (case, gaps) in zip(axes, drawable.items(), strict=True):
        ranges = [_cdf(axis, index, each) for index, each in enumerate(gaps) if (each > 0).any()]
        log_ticks(axis.xaxis, min(low for low, _ in ranges), max(high for _, high in ranges), most=5)
        axis.set_title(f"{case}\nn = {_slashed(each.size for each in gaps)} gaps")
        axis.set_ylim(0, 1.02)
        axis.grid()
        axis.set_xlabel("gap between tokens (ms)")
        axis.set_ylabel("share of gaps ≤ x")
    _arm_legend(canvas, arms)
    totals = [np.concatenate([gaps[index] for gaps in cases.values()]) for index in range(len(arms))]
    zeros = ", ".join(
        f"{label}{np.mean(gaps == 0):.2%} of {gaps.size:,} gaps"
        for label, gaps in zip(_prefixes(arms), totals, strict=True)
        if gaps.size
    )
    left_out = [case for case in cases if case not in drawable]
    return canvas, (
        "Cumulative share of the gaps between a request's consecutive tokens, pooled over units; no intervals. Gaps "
        f"of 0 (tokens of one chunk) are left of the axis, a curve begins at their share: {zeros}."
        + (f" Without a gap above 0, not drawn: {', '.join(left_out)}." if left_out else "")
    )


def _case_gaps(arm: Arm, case: str) -> goodput_map.Floats:
    times = [timeline.token_times for timeline in _requests(arm, case)]
    return np.asarray(np.concatenate([np.empty(0), *map(np.diff, times)]) * 1e3)


def _cdf(axis: Axes, index: int, gaps: goodput_map.Floats) -> tuple[float, float]:
    """Draw one arm's curve; the range of its gaps above 0."""
    ordered = np.sort(gaps)
    zeros = int(np.searchsorted(ordered, 0, side="right"))
    ranks = np.unique(np.linspace(zeros, ordered.size - 1, _POINTS).astype(int))
    x = ordered[ranks]
    y = np.concatenate([[zeros / ordered.size], (ranks + 1) / ordered.size])
    axis.step(np.concatenate([x[:1], x]), y, where="post", color=_ARMS[index], ls=_LINES[index], lw=1.4)
    return float(x[0]), float(x[-1])


def _goodput(arms: Sequence[Arm]) -> Drawn:
    found = goodput_map.maps(*arms) if len(arms) == 2 else []
    if not found:
        return None
    canvas, axes = grid(len(found), height=2.5)
    for axis, one, outcome in zip(axes, found, goodput_map.decide(found), strict=True):
        axis.patch.set(hatch="////", facecolor="white")
        cells = np.where(one.served, outcome, np.nan)
        colours = ListedColormap([_ARMS[0], _GREY, _ARMS[1]])
        edges = one.edges(one.ttft) * 1e3, one.edges(one.tpot) * 1e3
        axis.pcolormesh(*edges, cells, cmap=colours, vmin=-1, vmax=1, rasterized=True)  # 576 cells bloat an SVG
        log_ticks(axis.xaxis, edges[0][0], edges[0][-1], most=5)
        log_ticks(axis.yaxis, edges[1][0], edges[1][-1], most=5)
        axis.set_title(f"{one.case}\nn = {_slashed(one.requests)} requests, {_plural(one.pairs, 'pair')}")
        axis.set_xlabel("TTFT limit (ms)")
        axis.set_ylabel("TPOT limit (ms)")
    handles = [Patch(color=colour) for colour in (*_ARMS, _GREY)]
    handles.append(Patch(facecolor="white", edgecolor="#999999", hatch="////"))
    labels = [f"more from the {_name(arms, index)}" for index in range(2)]
    legend(canvas, handles, [*labels, "undecided or equal", "neither serves any"])
    few = any(one.pairs < MIN_PAIRS for one in found)
    note = f" With fewer than {MIN_PAIRS} pairs every cell is undecided." if few else ""
    judged = _slashed(sum(one.requests[index] for one in found) for index in range(2))
    return canvas, (
        "Which arm serves more requests per second within both limits (TTFT and TPOT). Coloured where a sign-flip test "
        f"of the units' differences decides, {ALPHA:.0%} false discoveries over all cells of all panels.{note} "
        f"Measured requests: {judged}."
    )


def _cases(arms: Sequence[Arm]) -> list[str]:
    """Cases of either arm in which a request completed."""
    cases = dict.fromkeys(case for arm in arms for case in arm.cases)
    return [case for case in cases if any(_requests(arm, case) for arm in arms)]


def _requests(arm: Arm, case: str) -> list[Timeline]:
    return [timeline for repeat in arm.repeats(case) for timeline in repeat.timelines]


def _prefixes(arms: Sequence[Arm]) -> list[str]:
    return [f"{role} " for role in _ROLES] if len(arms) > 1 else [""]


def _name(arms: Sequence[Arm], index: int) -> str:
    return f"{_ROLES[index]}: {arms[index].label}" if len(arms) > 1 else arms[index].label


def _counted(arms: Sequence[Arm]) -> str:
    return "; ".join(
        f"{role}{_plural(len(arm.units), 'unit')}, {_plural(sum(len(_requests(arm, c)) for c in arm.cases), 'request')}"
        for role, arm in zip(_prefixes(arms), arms, strict=True)
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _slashed(counts: Iterable[int]) -> str:
    return " / ".join(f"{count:,}" for count in counts)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _tokens(count: int) -> str:
    return f"{count / 1024:g}k" if count >= 1024 and count % 128 == 0 else str(count)


def _arm_legend(canvas: mpl.Figure, arms: Sequence[Arm], **line: Any) -> None:
    lines = [Line2D([], [], **({"color": _ARMS[index], "ls": _LINES[index]} | line)) for index in range(len(arms))]
    legend(canvas, lines, [_name(arms, index) for index in range(len(arms))])
