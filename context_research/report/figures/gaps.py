"""Gaps between tokens: how large a share is how long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from context_research.compare.goodput_map import Floats
from context_research.compare.observations import Arm
from context_research.report.figures.arms import (
    Sheet,
    arm_legend,
    cases_of,
    colour,
    line,
    prefixes,
    requests_of,
    slashed,
)
from context_research.report.figures.style import grid, log_ticks

_POINTS = 2000
"""Quantiles that a CDF is drawn from."""


def draw(arms: Sequence[Arm]) -> list[Sheet]:
    cases = {case: [_gaps(arm, case) for arm in arms] for case in cases_of(arms)}
    drawable = {case: gaps for case, gaps in cases.items() if any((each > 0).any() for each in gaps)}
    if not drawable:
        return []
    canvas, axes = grid(len(drawable), height=2.3)
    for axis, (case, gaps) in zip(axes, drawable.items(), strict=True):
        ranges = [_cdf(axis, index, each) for index, each in enumerate(gaps) if (each > 0).any()]
        # A little room: a curve's last step would lie on the border.
        log_ticks(axis.xaxis, min(low for low, _ in ranges) / 1.03, max(high for _, high in ranges) * 1.03, most=5)
        axis.set_title(f"{case}\nn = {slashed(each.size for each in gaps)} gaps")
        axis.set_ylim(0, 1.02)
        axis.grid()
        axis.set_xlabel("gap between tokens (ms)")
        axis.set_ylabel("share of gaps ≤ x")
    arm_legend(canvas, arms)
    totals = [np.concatenate([gaps[index] for gaps in cases.values()]) for index in range(len(arms))]
    zeros = ", ".join(
        f"{label}{np.mean(gaps == 0):.2%} of {gaps.size:,} gaps"
        for label, gaps in zip(prefixes(arms), totals, strict=True)
        if gaps.size
    )
    left_out = [case for case in cases if case not in drawable]
    caption = (
        "Cumulative share of the gaps between a request's consecutive tokens, pooled over units; no intervals. Gaps "
        f"of 0 (tokens of one chunk) are left of the axis, a curve begins at their share: {zeros}."
        + (f" Without a gap above 0, not drawn: {', '.join(left_out)}." if left_out else "")
    )
    return [Sheet("gaps", "Gaps between tokens", canvas, caption)]


def _gaps(arm: Arm, case: str) -> Floats:
    times = [timeline.token_times for timeline in requests_of(arm, case)]
    return np.asarray(np.concatenate([np.empty(0), *map(np.diff, times)]) * 1e3)


def _cdf(axis: Axes, index: int, gaps: Floats) -> tuple[float, float]:
    """Draw one arm's curve; the range of its gaps above 0."""
    ordered = np.sort(gaps)
    zeros = int(np.searchsorted(ordered, 0, side="right"))
    ranks = np.unique(np.linspace(zeros, ordered.size - 1, _POINTS).astype(int))
    x = ordered[ranks]
    y = np.concatenate([[zeros / ordered.size], (ranks + 1) / ordered.size])
    axis.step(np.concatenate([x[:1], x]), y, where="post", color=colour(index), ls=line(index), lw=1.4)
    return float(x[0]), float(x[-1])
