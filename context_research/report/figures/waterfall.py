"""Where the time to first token goes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from context_research.compare.observations import CLASS, Arm
from context_research.measure import waterfall
from context_research.report.figures.arms import (
    Sheet,
    axes_of,
    cases_of,
    counted,
    name_of,
    requests_of,
    short_names,
    slashed,
    tokens,
    turned,
)
from context_research.report.figures.latency import PROMPT
from context_research.report.figures.style import grid, legend
from context_research.request import Timeline

_COLOURS = ("#F0E442", "#E69F00", "#0072B2", "#CC79A7", "#56B4E9", "#009E73", "#999999")
_PARTS = dict(zip((*waterfall.PARTS, waterfall.UNATTRIBUTED), _COLOURS, strict=True))


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    panels = _bars(arms)
    if not panels:
        return []
    canvas, axes = grid(len(panels), height=2.5)
    shown: set[str] = set()
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        heights = [_stack(axis, at, timelines, shown) for at, timelines in enumerate(bars.values())]
        axis.set_title(f"{title}\nn = {slashed(map(len, bars.values()))} requests")
        axis.set_xticks(range(len(bars)), list(bars), **turned(sum(map(len, bars)) > 24))
        axis.set_xlim(-0.7, len(bars) - 0.3)
        axis.set_ylim(min(0.0, axis.get_ylim()[0]), max(heights) * 1.15 or None)
        axis.axhline(0, color="black", lw=0.8)
        axis.grid(axis="y")
        axis.set_ylabel("mean TTFT (ms)")
    parts = [name for name in _PARTS if name in shown]
    labels = [name.replace("_", " ") for name in parts]
    names = [name_of(arms, index) for index in range(len(arms))]
    legend(canvas, [Patch(color=_PARTS[name]) for name in parts], labels, beneath="\n".join(names))
    caption = (
        "Mean time to first token by part, over all completed requests; the number on a bar is the mean TTFT in ms. "
        f"Means, as they add up; no intervals. Each panel has its own scale. {counted(arms)}."
    )
    return [Sheet("waterfall", "Where the time to first token goes", canvas, caption)]


def mean_parts(timelines: Sequence[Timeline]) -> dict[str, float]:
    """Mean seconds of each part of TTFT, a part that did not happen counting as 0: they add up to the mean TTFT."""
    each = [waterfall.parts(timeline) for timeline in timelines]
    names = [name for name in _PARTS if any(name in parts for parts in each)]
    return {name: sum(parts.get(name, 0.0) for parts in each) / len(each) for name in names}


def _bars(arms: Sequence[Arm]) -> dict[str, dict[str, list[Timeline]]]:
    """Panel -> bar -> requests. Arms stand side by side case by case, one arm's cases by prompt length or class."""
    panels: dict[str, dict[str, list[Timeline]]] = {}
    for case in cases_of(arms):
        if len(arms) > 1:
            found = {name: requests_of(arm, case) for name, arm in zip(short_names(arms), arms, strict=True)}
            panels[case] = {name: timelines for name, timelines in found.items() if timelines}
        else:
            panel, bar = _place(case, arms)
            panels.setdefault(panel, {})[bar] = requests_of(arms[0], case)
    return panels


def _place(case: str, arms: Sequence[Arm]) -> tuple[str, str]:
    """The panel and the bar of one arm's case."""
    axes = axes_of(arms, case)
    if CLASS in axes:
        return str(axes[CLASS]), case.removesuffix(f" {axes[CLASS]}")
    lengths = [timeline.prompt_tokens for timeline in requests_of(arms[0], case)]
    if axes and PROMPT not in axes and min(lengths) < max(lengths):
        return "all requests", case
    return f"{tokens(median_low(lengths))} prompt tokens", case.removeprefix(f"p{axes.get(PROMPT)}-")


def _stack(axis: Axes, at: int, timelines: Sequence[Timeline], shown: set[str]) -> float:
    """Draw one bar, negative parts downwards from 0; its top in ms."""
    parts = {name: seconds * 1e3 for name, seconds in mean_parts(timelines).items()}
    top = bottom = 0.0
    for name, height in parts.items():
        axis.bar(at, height, 0.7, bottom=top if height > 0 else bottom, color=_PARTS[name])
        top, bottom = top + max(height, 0), bottom + min(height, 0)
    shown.update(parts)
    axis.annotate(short(sum(parts.values())), (at, top), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    return top


def short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
