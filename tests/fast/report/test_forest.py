"""The forest plot: what has a row, where it lies, and that nothing is only told by colour."""

import matplotlib
import pytest

from context_research.compare import verdict
from context_research.compare.comparison import of_ab
from context_research.report.figures import forest
from tests.support import made_runs

CASES = {f"p{prompt}-c{level}": {"ttft": [0.1], "tpot": [0.01]} for prompt in (64, 128, 256) for level in (1, 4, 16)}
ARMS = {"base": "aggregated", "1P1D": "disaggregated", "tuned": "aggregated --set engine.max_num_batched_tokens=1024"}


def drawn(outputs, primary=None, **ab):
    return forest.draw(verdict.judge(of_ab(made_runs.A_B(outputs, **ab)), primary))


def labels(sheet):
    """Row by row what stands at the left and at the right."""
    [axis] = sheet.canvas.axes
    [right] = axis.child_axes
    return [
        (left.get_text(), label.get_text())
        for left, label in zip(axis.get_yticklabels(), right.get_yticklabels(), strict=True)
    ]


def test_a_row_for_each_figure_grouped_by_metric_and_the_tails_apart(tmp_path):
    first, tails = drawn(tmp_path, ratio=1.3, figures=dict(list(CASES.items())[:2]))
    heads = [left for left, right in labels(first) if not right]
    assert heads == ["TTFT: lower is better", "TPOT: lower is better"]
    assert [left for left, right in labels(first) if right] == ["p64-c1", "p64-c4"] * 2
    assert all(
        right.startswith("1.31 (1.29 to 1.33)") and right.endswith("worse") for _, right in labels(first) if right
    )
    assert {left for left, right in labels(tails) if not right} == {
        f"{metric} {tail}: lower is better" for metric in ("TTFT", "TPOT") for tail in ("p90", "p99")
    }


def test_tails_that_were_not_asked_are_counted_and_not_drawn(tmp_path):
    [only] = drawn(tmp_path, ratio=1.05, noise=0.1)
    assert "4 tails not asked" in only.caption


def test_several_arms_of_a_case_are_neighbours_and_named(tmp_path):
    first, _ = drawn(tmp_path, arms=ARMS, ratio=1.5)
    assert [left for left, right in labels(first) if right][:2] == ["p64-c1, 1P1D", "p64-c1, tuned"]


def test_rows_of_many_figures_and_arms_keep_their_height(tmp_path):
    first, *_ = drawn(tmp_path, arms=ARMS, ratio=1.5, figures=CASES)
    rows = labels(first)
    assert len(rows) == 2 * (1 + 9 * 2)
    [axis] = first.canvas.axes
    first.canvas.set_layout_engine("constrained")
    first.canvas.draw_without_rendering()
    inches = axis.get_window_extent().height / first.canvas.dpi
    assert inches / len(rows) > 8 / 72 * 1.1  # letters of 8 points


def test_what_has_no_ratio_says_so_at_its_row_and_its_difference_beside_it(tmp_path):
    figures = {"p64-c1": made_runs.FLAT["p64-c1"] | {"goodput": [0.0]}}
    sheet = drawn(tmp_path, primary=["goodput"], figures=figures)[0]
    [axis] = sheet.canvas.axes
    assert [text.get_text() for text in axis.texts] == ["a value is 0: judged by differences"]
    assert labels(sheet)[1] == ("p64-c1", "+0 (+0 to +0) 1/s  equivalent")


@pytest.mark.parametrize("values", [{"pairs": 2}, {"changes": {a: {"backend": "simulated"} for a in made_runs.MODES}}])
def test_without_intervals_there_are_points(tmp_path, values):
    sheet = drawn(tmp_path, ratio=1.3, **values)[0]
    told = [right for _, right in labels(sheet) if right]
    assert all("to" not in right for right in told)
    assert "interval" in sheet.caption


def test_outcomes_differ_in_shape_or_filling_not_only_in_colour():
    looks = [(marker, filled) for outcome, (_, marker, filled) in forest.OUTCOMES.items() if outcome]
    assert len(set(looks)) == len(looks)
    assert all(matplotlib.colors.is_color_like(colour) for colour, *_ in forest.OUTCOMES.values())


def test_an_interval_that_dwarfs_all_others_is_cut_off(tmp_path):
    sheet = drawn(tmp_path, ratio=1.05, noise=2.0)[0]
    [axis] = sheet.canvas.axes
    low, high = axis.get_xlim()
    assert high / low < 1000
    assert {"<", ">"} & {line.get_marker() for line in axis.lines}
