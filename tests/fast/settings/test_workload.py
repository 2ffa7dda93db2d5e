"""Loads that contradict themselves: one plain line that names the keys."""

import pytest

from context_research.errors import UsageProblem
from tests.support.settings import chosen

OPEN = {"arrivals": "open", "rate": 2.0, "window_s": 10.0, "concurrency": []}
REPLAY = {"arrivals": "replay", "trace": {"file": "t.jsonl"}, "prompt_lengths": [], "concurrency": []}
CLASSES = {"prompt_lengths": [], "classes": {"chat": {"prompt": 10}}}


def settings(**workload):
    return chosen(**{f"workload__{key}": value for key, value in workload.items()})


def one_class(**given):
    return {"prompt_lengths": [], "classes": {"chat": given}}


@pytest.mark.parametrize(
    "given",
    [
        OPEN,
        OPEN | CLASSES,
        OPEN | one_class(rows="t.jsonl", share=3),
        REPLAY,
        REPLAY | {"classes": {"chat": {"slo": {"ttft": 1}}}, "window_s": 5},
        CLASSES,
        {"output_tokens": {"low": 1, "high": 5}, "length_spread": 0.2},
        {"output_tokens": {"p50": 10, "p90": 20, "max": 30}},
    ],
)
def test_loads_that_there_are(given):
    settings(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (REPLAY | {"trace": None}, "arrivals: replay needs a trace: {file: …}"),
        (REPLAY | {"prompt_lengths": [64]}, "a replayed trace has its own prompt lengths: leave prompt_lengths out"),
        (
            REPLAY | {"classes": {"chat": {"prompt": 64}}},
            "classes.chat: a replayed trace has its own lengths; a class of it can have an slo alone",
        ),
        (
            OPEN | {"trace": {"file": "t"}},
            "a trace is for arrivals: replay, not for open; a class can have its lengths",
        ),
        ({"trace": {"file": "t"}}, "a trace is for arrivals: replay, not for closed"),
        (CLASSES | {"prompt_lengths": [64]}, "lengths come from prompt_lengths or from classes, and both are given"),
        ({"prompt_lengths": []}, "lengths come from prompt_lengths or from classes, and neither is given"),
        (one_class(share=2), "classes.chat: give its prompt (and output), or rows: FILE"),
        (one_class(prompt=1, rows="t"), "classes.chat: give its prompt (and output), or rows: FILE"),
        (one_class(output=1, rows="t"), "classes.chat: rows have their own output lengths: leave output out"),
        ({"concurrency": []}, "arrivals: closed needs a concurrency"),
        (OPEN | {"concurrency": [4]}, "arrivals: open bounds nothing in flight: leave concurrency out"),
        (REPLAY | {"concurrency": [4]}, "arrivals: replay bounds nothing in flight: leave concurrency out"),
        (OPEN | {"rate": None}, "a rate (requests a second) belongs to arrivals: open, and only there"),
        ({"rate": 3.0}, "a rate (requests a second) belongs to arrivals: open, and only there"),
        (OPEN | {"window_s": None}, "arrivals: open needs a window_s, the seconds that are measured"),
        (OPEN | {"cache": "warm"}, "arrivals: open can't prime the prefix cache beforehand: cache: cold"),
        (REPLAY | {"cache": {"primed": 0.5}}, "arrivals: replay can't prime the prefix cache beforehand: cache: cold"),
        (
            one_class(prompt={"low": 5, "high": 2}),
            "should be a number of tokens, {low: , high: } or ",
        ),
        (one_class(prompt={"low": 5, "high": 2}), "low is over high"),
        ({"output_tokens": {"p50": 5, "p90": 5, "max": 9}}, "p50 < p90 <= max is asked for"),
        ({"output_tokens": {"p50": 5, "p90": 8, "max": 7}}, "p50 < p90 <= max is asked for"),
        ({"output_tokens": {"low": 2.5, "high": 9}}, "Input should be a valid integer"),
        ({"output_tokens": {"mean": 5}}, "should be a number of tokens, {low: , high: } or {p50: , p90: , max: }"),
        ({"output_tokens": "many"}, "should be a number of tokens, {low: , high: } or {p50: , p90: , max: }"),
        ({"length_spread": 1.0}, "less than 1"),
        (OPEN | {"rate": 0.0}, "greater than 0"),
        (OPEN | {"cv": 0.0}, "greater than or equal to 0.01"),
        (OPEN | {"rate": float("inf")}, "finite"),
        (OPEN | {"cv": 1e-200}, "greater than or equal to 0.01"),
        (one_class(prompt=1 << 31), "should be a number of tokens"),
        (
            one_class(promt=1),
            "workload.classes.chat.promt: unknown key; allowed here: output, prompt, rows, share, slo",
        ),
        (
            one_class(prompt=1, slo={"x": 1}),
            "workload.classes.chat.slo.x: unknown key; allowed here: attainment, e2e, stall",
        ),
        (REPLAY | {"trace": {"file": "t", "form": 1}}, "workload.trace.form: unknown key; allowed here: file, format"),
        (one_class(prompt=1, share=0.0), "greater than 0"),
        ({"prompt_lengths": [], "classes": {"A b": {"prompt": 1}}}, "classes.A b"),
        (one_class(prompt=1, slo={"ttft": -1.0}), "greater than 0"),
        (REPLAY | {"trace": {"file": ""}}, "at least 1 character"),
        (REPLAY | {"trace": {"file": "t", "format": "csv"}}, "'auto', 'mooncake', 'azure' or 'rows'"),
        (REPLAY | {"trace": {"file": "t", "rows": [5, 2]}}, "rows are [first, end], and end is over first"),
        (
            REPLAY | {"trace": {"file": "t", "rows": [0, 2], "start_s": 2.0}},
            "a slice is given by its rows, or by start",
        ),
    ],
)
def test_contradictions_are_told_in_one_line_with_the_key(given, told):
    with pytest.raises(UsageProblem) as caught:
        settings(**given)
    line = str(caught.value)
    assert told in line
    assert "workload" in line
    assert "\n" not in line
    assert "[type=" not in line


# SLOs


def test_a_list_of_slos_has_a_first_and_others():
    found = chosen(slo=[{"ttft": 1.0}, {"tpot": 0.02, "attainment": 0.99}])
    assert [each.limits for each in found.slos] == [{"ttft": 1.0}, {"tpot": 0.02}]
    assert [each.attainment for each in found.slos] == [0.9, 0.99]
    assert type(found).model_validate(found.model_dump(mode="json")) == found
