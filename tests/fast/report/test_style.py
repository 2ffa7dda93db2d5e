"""Axes and legends: nothing overlaps."""

from itertools import pairwise

import pytest
from matplotlib import figure as mpl
from matplotlib.lines import Line2D

from context_research.report.figures.style import legend, log_ticks, style

RANGES = [(1150, 5000), (1300, 50_000), (250, 1000), (20, 130), (0.04, 12), (4.8, 20), (1200, 2000), (1e-3, 1e4)]
SHORT, LONG = ["a", "b", "c", "within 3 % either way"], ["a long label" * 5] * 3


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_labels_of_a_narrow_panel_do_not_touch(low, high):
    with style():
        canvas = mpl.Figure(figsize=(2.5, 2.0))
        axis = canvas.subplots()
        canvas.subplots_adjust(left=0.2, right=0.9)  # 1.75 inches: a panel of four in a row
        log_ticks(axis.xaxis, low, high, most=5)
        canvas.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_round_end_keeps_its_tick():
    axis = mpl.Figure().subplots()
    log_ticks(axis.xaxis, 250, 1000, most=5)
    assert axis.get_xticks()[-1] == 1000


@pytest.mark.parametrize(("labels", "rows"), [(SHORT, 1), (LONG, 3)])
def test_a_legend_has_one_row_if_that_fits(labels, rows):
    canvas = mpl.Figure(figsize=(5.0, 3.0))
    legend(canvas, [Line2D([], []) for _ in labels], labels)
    assert -(-len(labels) // canvas.legends[0]._ncols) == rows
