"""What readers are told of a load: in words, as it came, and that it was too much."""

import pytest

from context_research.report import loads
from tests.support import made
from tests.support.settings import chosen

CLASSES = {
    "chat": {"share": 19, "prompt": {"p50": 64, "p90": 200, "max": 500}, "output": {"low": 8, "high": 24}},
    "document": {"share": 1, "prompt": 4000, "slo": {"ttft": 5}},
}
OPEN = {
    "workload__arrivals": "open",
    "workload__rate": 4,
    "workload__window_s": 60,
    "workload__prompt_lengths": [],
    "workload__concurrency": [],
}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"workload__prompt_lengths": [64, 256], "workload__concurrency": [1, 4]},
            "closed loop, 1, 4 in flight, 17 requests measured in a repeat; prompts of 64, 256 tokens, output 16",
        ),
        (
            OPEN | {"workload__classes": CLASSES, "workload__length_spread": 0.2},
            "open, 4/s, CV 1 (Poisson), 10 s of warm-up, then 60 s measured; "
            "chat 95 %: prompt median 64 (p90 200, at most 500), output 8 to 24; "
            "document 5 %: prompt 4000, output 16; lengths ± 20%",
        ),
        (
            OPEN | {"workload__prompt_lengths": [64], "workload__cv": 2, "axes": {"workload.rate": [2, 4.5]}},
            "open, 2, 4.5/s, CV 2, 10 s of warm-up, then 60 s measured; prompts of 64 tokens, output 16",
        ),
        (
            OPEN
            | {"workload__arrivals": "replay", "workload__rate": None, "workload__window_s": None}
            | {"workload__trace": {"file": "a/t.jsonl", "start_s": 60, "seconds": 300, "longest_prompt": 32000}},
            "replay of t.jsonl, from 60 s to 360 s, prompts up to 32000 tokens, 10 s of warm-up, then the rest "
            "measured; lengths are the trace's",
        ),
        (
            OPEN | {"workload__classes": {"mix": {"rows": "a/rows.jsonl"}}},
            "open, 4/s, CV 1 (Poisson), 10 s of warm-up, then 60 s measured; mix 100 %: lengths of rows.jsonl",
        ),
    ],
    ids=["closed", "classes", "axes", "replay", "rows"],
)
def test_a_load_is_described_in_words(values, told):
    assert loads.described(chosen(**values)) == told


def test_objectives_are_everybodys_and_then_those_of_classes():
    settings = chosen(**OPEN, workload__classes=CLASSES, slo={"ttft": 0.5, "tpot": 0.05})
    assert loads.objectives(settings) == "ttft 0.5 s, tpot 0.05 s; document: ttft 5 s"
    assert loads.objectives(chosen()) == ""


def case(name="rate_4", overloaded=False, **values):
    """A case of an open load of two classes; every figure of a metric is its value."""
    of = {"ttft": 0.1, "chat.ttft": 0.05, "document.ttft": 2.0}
    figures = {metric: made.metric(count=99, mean=v, p50=v, p90=v) for metric, v in of.items()}
    if overloaded:
        figures = {metric: made.metric(count=0, missing="overloaded: it grew") for metric in of}
    shares = {"attainment": 0.9, "chat.attainment": 0.95, "document.attainment": 0.0}
    figures |= {metric: made.metric("share", 1, share) for metric, share in shares.items()}
    arrivals = {"due": {"chat": 190, "document": 10}, "rate": 4.0, "cv": 1.02, "left_out": 0}
    overload = {"overloaded": overloaded, "slope": 0.8, "p": [0.001]}
    given = {"axes": {"rate": 4}, "metrics": figures, "arrivals": arrivals, "overload": overload} | values
    return made.case_record("p64-c1", **given).model_copy(update={"name": name})


def test_the_load_as_it_was_is_told_class_by_class():
    lines = loads.as_it_was([case(), case("rate_9", overloaded=True)]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    assert cells[:3] == [
        ["rate_4", "all", "200", "4", "1.02", "+0.8", "not overloaded"],
        ["rate_4", "chat", "190", "3.8", "", "", ""],
        ["rate_4", "document", "10", "0.2", "", "", ""],
    ]
    assert cells[3][-1] == "OVERLOADED"
    assert loads.as_it_was([made.case_record()]) == ""


def test_rows_that_a_trace_leaves_out_are_counted():
    arrivals = {"due": {"": 20}, "rate": 4.0, "cv": None, "left_out": 828}
    assert "**rate_4**: 828 rows" in loads.as_it_was([case(arrivals=arrivals)])
    assert "Left out" not in loads.as_it_was([case()])


def test_an_overload_is_warned_of_with_the_growth_of_the_backlog():
    told = loads.warning([case(), case("rate_9", overloaded=True)])
    assert told.startswith("> **OVERLOADED: rate_9 (backlog grew by 0.8 requests/s).**")
    assert loads.warning([case(), made.case_record()]) == ""
