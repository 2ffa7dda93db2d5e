"""Windows that are set beforehand, and what counts in them; classes."""

import json

import pytest

from context_research.measure import metrics
from context_research.measure.metrics import METRICS
from context_research.measure.repeat import Repeat
from context_research.records.requests import WindowRecord
from context_research.settings.workload import Slo
from tests.support.timelines import timeline

BEFORE = timeline([9, 11], scheduled=8, prompt_tokens=10, phase="ramp", class_name="chat")
CHAT = timeline([12, 13, 14], scheduled=11, prompt_tokens=100, class_name="chat")
LATE = timeline([19, 22], scheduled=18, prompt_tokens=1000, class_name="document")
LOST = timeline([13], asked=2, scheduled=12, prompt_tokens=100, class_name="chat", error="cut")
AFTER = timeline([22, 23], scheduled=21, prompt_tokens=10, phase="tail", class_name="chat")
SERVED = [BEFORE, CHAT, LATE, LOST, AFTER]


def repeat(**more):
    """Ten seconds on two devices; one chat of those due was never sent."""
    due = {"chat": 3, "document": 1}
    return Repeat.of([CHAT, LATE, LOST], SERVED, window=(10, 20), due=due, devices=2, **more)


def value(name, of):
    (metric,) = [each for each in METRICS if each.name == name]
    return list(metric.samples(of))


def test_what_failed_has_no_latency():
    assert value("ttft", repeat()) == [1, 1]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("request_rate", 2),  # BEFORE ends in the window and CHAT does
        ("input_token_rate", 100 + 1000 + 100),  # CHAT's, LATE's and LOST's first tokens come in it
        ("output_token_rate", 1 + 3 + 1 + 1),
    ],
)
def test_rates_count_what_came_in_the_window(name, count):
    assert value(name, repeat()) == [pytest.approx(count / 10 / 2)]


def test_failed_and_unsent_requests_missed_their_objectives():
    assert sorted(value("attainment", repeat(slo=Slo(ttft=2)))) == [0, 0, 1, 1]
    assert value("goodput", repeat(slo=Slo(ttft=2))) == [2 / 10 / 2]
    assert value("attainment", repeat()) == value("goodput", repeat()) == []


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        (Slo(ttft=1), 2),
        (Slo(ttft=0.9), 0),
        (Slo(tpot=1), 1),
        (Slo(stall=2), 1),
        (Slo(stall=3), 2),
        (Slo(e2e=3), 1),
        (Slo(ttft=1, e2e=4), 2),
    ],
)
def test_every_objective_given_counts(slo, met):
    assert sorted(value("attainment", repeat(slo=slo))) == [0] * (4 - met) + [1] * met


def test_a_class_has_objectives_of_its_own():
    found = repeat(slo=Slo(ttft=0.5), class_slos={"document": Slo(e2e=4)})
    assert sorted(value("attainment", found)) == [0, 0, 0, 1]
    assert value("attainment", found.of_class("document")) == [1]
    assert value("attainment", found.of_class("chat")) == [0, 0, 0]


def test_classes_without_objectives_are_not_counted():
    assert sorted(value("attainment", repeat(class_slos={"chat": Slo(ttft=1)}))) == [0, 0, 1]


def test_attainment_is_the_share_of_all_that_were_due():
    """Not the mean of the repeats' shares: 1 of 2 and 6 of 6."""
    one = Repeat.of([CHAT], [CHAT], window=(10, 20), due={"chat": 2}, slo=Slo(ttft=9))
    many = Repeat.of([CHAT] * 6, [CHAT] * 6, window=(10, 20), due={"chat": 6}, slo=Slo(ttft=9))
    assert metrics.summaries(METRICS, [one, many])["attainment"].mean == 7 / 8


def test_every_metric_of_a_request_is_there_for_each_class():
    found = metrics.summaries(metrics.with_classes(METRICS, [repeat()]), [repeat()])
    assert found["chat.ttft"].count == found["document.ttft"].count == 1
    assert found["document.e2e"].mean == 4
    assert found["chat.request_rate"].mean == 2 / 10 / 2
    assert "chat.handoff" not in found


def test_a_closed_loops_class_has_its_share_of_the_rate():
    """Two of three requests in as many steady seconds."""
    served = [timeline([at + 1], scheduled=at, class_name=name) for at, name in enumerate("aab")]
    closed = Repeat.of(served, served)
    assert [value("request_rate", closed.of_class(name)) for name in "ab"] == [[2 / 3], [1 / 3]]


def test_overloaded_latencies_are_withheld_and_rates_kept():
    found = metrics.summaries(METRICS, [repeat(slo=Slo(ttft=2))], "overloaded: …")
    withheld = {name for name, metric in found.items() if metric.missing}
    assert withheld == {"ttft", "tpot", "itl", "stall", "e2e"}
    assert all(found[name].count == 0 for name in withheld)
    assert found["attainment"].mean == 0.5


def test_a_window_reads_as_it_was_written():
    was = repeat(slo=Slo(ttft=2), class_slos={"chat": Slo(stall=1)}, kv_usage={"a": [(10.0, 0.25), (11.0, 0.5)]})
    line = json.loads(was.window("load", 0, 0.0).model_dump_json())
    again = Repeat.read(WindowRecord.model_validate(line), SERVED)
    for metric in metrics.with_classes(METRICS, [was]):
        assert list(metric.samples(again)) == list(metric.samples(was)), metric.name
    assert again.kv_usage == {"a": ((10.0, 0.25), (11.0, 0.5))}
