"""The forest plot: each verdict's ratio with its interval, outcome and practical margin, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import figure as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from context_research.backends.registry import named
from context_research.compare.statistics import MIN_PAIRS, Verdict
from context_research.compare.verdict import Findings
from context_research.report.figures.arms import Sheet, plural, shortened
from context_research.report.figures.style import legend, log_ticks
from context_research.report.tables import SCALES, ratios
from context_research.report.words import by_metric, called, name

STEM = "forest"
_MARGIN = "#ECECEC"
OUTCOMES: dict[str | None, tuple[str, str, bool]] = {
    "better": ("#0072B2", "o", True),
    "worse": ("#D55E00", "s", True),
    "equivalent": ("#009E73", "D", False),
    "undecided": ("#777777", "o", False),
    None: ("#000000", "o", False),
}
"""Colour, shape and whether it is filled: shapes alone tell them apart without colours."""
_ROW = 0.19
"""Inches."""
_REACH = 2.0
"""An interval is cut off where it reaches further beyond the outermost ratio than by this factor."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the plot: a heading, or a verdict."""

    label: str
    found: Verdict | None = None


def draw(findings: Findings) -> list[Sheet]:
    """The figures that were named, and in a plot of their own the tails that were asked after them."""
    asked = [found for found in findings.primary if found.asked]
    named_ones = [found for found in asked if found in findings.first]
    tails = [found for found in asked if found not in findings.first]
    not_asked = len(findings.primary) - len(asked)
    note = f" {plural(not_asked, 'tail')} not asked, as what it follows is undecided." if not_asked else ""
    sheets = [_sheet(STEM, "Verdicts", findings, named_ones, note)] if named_ones else []
    return [*sheets, *([_sheet(f"{STEM}-tails", "Verdicts on the tails", findings, tails, note)] if tails else [])]


def _sheet(stem: str, title: str, findings: Findings, founds: Sequence[Verdict], note: str) -> Sheet:
    comparison = findings.comparison
    rows = _rows(findings, founds)
    canvas = mpl.Figure(figsize=(9.0, 1.5 + _ROW * len(rows)))
    axis = canvas.subplots()
    margin = 1 + findings.practical
    low, high = _range(founds, margin)
    log_ticks(axis.xaxis, low, high, most=8)
    if findings.measured:
        axis.axvspan(1 / margin, margin, color=_MARGIN, lw=0, zorder=0)
    axis.axvline(1, color="black", lw=0.8, zorder=1)
    for at, row in enumerate(rows):
        if row.found is not None:
            _draw(axis, at, row.found, low, high)
    _label(axis, rows)
    base = comparison.baseline.label
    candidate = comparison.candidates[0].label if len(comparison.candidates) == 1 else "arm"
    axis.set_xlabel(f"← lower        ratio: {shortened(candidate, 36)} ÷ {shortened(base, 36)}        higher →")
    _legend(canvas, findings, founds)
    count = len(comparison.baseline.units)
    few = f" Fewer than {MIN_PAIRS} pairs give no interval." if count < MIN_PAIRS and findings.measured else ""
    backend = named(comparison.baseline.runs[0].metadata.backend)
    bars = (
        "Points: the ratio of geometric means over the pairs; bars: its 95 % interval by itself; shape and colour: the "
        "verdict, which counts the whole family. Shaded: what is alike for practical purposes, "
        f"{findings.practical * 100:.3g} % either way. An arrow: the interval goes on. † is fragile: the table "
        "says why."
        if findings.measured
        else f"Ratios of {backend.labels.mark} figures: no interval and no verdict, as nothing was measured."
    )
    return Sheet(stem, title, canvas, f"{bars}{few}{note} {plural(count, 'pair')}.")


def _rows(findings: Findings, founds: Sequence[Verdict]) -> list[_Row]:
    """Figure by figure, case by case; the arms of a case one below the other."""
    arms = {side.arm: called(side, findings) for side in findings.comparison.candidates}
    rows: list[_Row] = []
    for figure in dict.fromkeys(name(found) for found in by_metric(founds)):
        own = [found for found in founds if name(found) == figure]
        better = "lower" if own[0].pairs.lower_is_better else "higher"
        rows.append(_Row(f"{figure}: {better} is better"))
        for case in dict.fromkeys(found.pairs.case for found in own):
            several = [found for found in own if found.pairs.case == case]
            for found in several:
                label = f"{case}, {arms[found.pairs.arm]}" if len(arms) > 1 else case
                rows.append(_Row(shortened(label, 46), found))
    return rows


def _range(founds: Sequence[Verdict], margin: float) -> tuple[float, float]:
    """Of the axis: all ratios, their intervals as far as those don't dwarf them, and the margin."""
    ratios = [found.ratio for found in founds if found.ratio and found.difference is None] or [1.0]
    lows = [found.low for found in founds if found.low] or [1.0]
    highs = [found.high for found in founds if found.high] or [1.0]
    low = min(max(min(lows), min(ratios) / _REACH), *ratios, 1 / margin**2)
    high = max(min(max(highs), max(ratios) * _REACH), *ratios, margin**2)
    room = (high / low) ** 0.04
    return low / room, high * room


def _draw(axis: Axes, at: int, found: Verdict, low: float, high: float) -> None:
    colour, marker, filled = OUTCOMES[found.outcome]
    if found.difference is not None or found.ratio is None:
        told = "a value is 0: judged by differences" if found.difference else "no value"
        box = {"facecolor": "white", "edgecolor": colour, "lw": 0.8, "boxstyle": "round,pad=0.15"}
        axis.annotate(
            told,
            (0.5, at),
            xycoords=("axes fraction", "data"),
            va="center",
            ha="center",
            fontsize=7,
            color=colour,
            bbox=box,
        )
        return
    if found.low is not None and found.high is not None:
        ends = max(found.low, low), min(found.high, high)
        axis.plot(ends, (at, at), color=colour, lw=1.4, solid_capstyle="butt", zorder=2)
        for end, cut, arrow in ((low, found.low < low, "<"), (high, found.high > high, ">")):
            if cut:
                axis.plot([end], [at], marker=arrow, color=colour, ms=5, clip_on=False, zorder=3)
    face = colour if filled else "white"
    axis.plot([found.ratio], [at], marker=marker, color=colour, mfc=face, ms=5.5, mew=1.3, zorder=4)


def _label(axis: Axes, rows: Sequence[_Row]) -> None:
    """What is compared at the left, its figures at the right; headings are bold, lines between the groups."""
    axis.set_ylim(len(rows) - 0.4, -0.7)
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [_figures(row.found) for row in rows], fontsize=8)
    for side in (axis, right):
        side.tick_params(axis="y", length=0)
        side.spines[:].set_visible(side is axis)
    axis.spines[["top", "right", "left"]].set_visible(False)
    for at, (row, label) in enumerate(zip(rows, axis.get_yticklabels(), strict=True)):
        if row.found is None:
            label.set_fontweight("bold")
            if at:
                axis.axhline(at - 0.5, color="#CCCCCC", lw=0.6)
    axis.set_axisbelow(True)
    axis.grid(True, axis="x")


def _figures(found: Verdict | None) -> str:
    """``1.62 (1.58 to 1.66) worse``; of differences in their unit."""
    if found is None:
        return ""
    mark = f"{found.outcome or 'no verdict'}{' †' if found.fragile else ''}"
    if found.difference is not None:
        scale, unit = SCALES.get(found.pairs.unit, (1.0, found.pairs.unit))
        ends = (found.difference.low, found.difference.high)
        known = " to ".join(f"{end * scale:+.3g}" for end in ends if end is not None)
        return f"{found.difference.mean * scale:+.3g}{f' ({known})' if known else ''} {unit}  {mark}"
    if found.ratio is None:
        return mark
    ratio, low, high = ratios(found.ratio, found.low, found.high)
    return f"{ratio}{f' ({low} to {high})' if found.low is not None else ''}  {mark}"


def _legend(canvas: mpl.Figure, findings: Findings, founds: Sequence[Verdict]) -> None:
    seen = [outcome for outcome in OUTCOMES if any(found.outcome == outcome for found in founds)]
    handles: list[Line2D | Patch] = []
    for outcome in seen:
        colour, marker, filled = OUTCOMES[outcome]
        handles.append(Line2D([], [], color=colour, marker=marker, mfc=colour if filled else "white", mew=1.3, ms=5.5))
    labels = [outcome or "no verdict" for outcome in seen]
    if findings.measured:
        handles.append(Patch(color=_MARGIN))
        labels.append(f"within {findings.practical * 100:.3g} % either way")
    legend(canvas, handles, labels)
