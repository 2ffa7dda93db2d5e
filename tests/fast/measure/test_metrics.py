import math

import numpy as np
import pytest

from context_research.errors import UsageProblem
from context_research.measure import metrics
from context_research.measure.metrics import METRICS, Metric, Repeat, extended, samples_needed, summaries, summarize
from context_research.settings.workload import Slo
from tests.support.timelines import timeline, two_slots

PLAIN = timeline([1.5, 1.75, 2.5], scheduled=1.0)
"""Gaps of 0.25 and 0.75."""
CHUNKED = timeline([2.0, 2.0, 2.0, 2.5], scheduled=1.0)
"""Three tokens in one chunk."""
ONE = timeline([1.25], scheduled=1.0)


def whole(started, ended, timelines, **values):
    """A pass without ramp and drain."""
    return Repeat(started, ended, timelines, timelines, **values)


def samples(name, repeat):
    (metric,) = [metric for metric in METRICS if metric.name == name]
    return list(metric.samples(repeat))


@pytest.mark.parametrize(
    ("name", "of_plain", "of_chunked", "of_one"),
    [
        pytest.param("ttft", [0.5], [1.0], [0.25], id="ttft"),
        pytest.param("tpot", [0.5], [0.5 / 3], [], id="tpot"),
        pytest.param("itl", [0.25, 0.75], [0, 0, 0.5], [], id="itl"),
        pytest.param("stall", [0.75], [0.5], [], id="stall"),
        pytest.param("e2e", [1.5], [1.5], [0.25], id="e2e"),
    ],
)
def test_latencies_of_hand_made_requests(name, of_plain, of_chunked, of_one):
    for request, expected in ((PLAIN, of_plain), (CHUNKED, of_chunked), (ONE, of_one)):
        assert samples(name, whole(0, 4, [request])) == pytest.approx(expected)
    together = whole(0, 4, [PLAIN, CHUNKED, ONE])
    assert samples(name, together) == pytest.approx([*of_plain, *of_chunked, *of_one])


def test_a_late_client_shows_in_ttft_and_e2e():
    prompt = timeline([1.5, 2.0], scheduled=1.0, sent=1.0)
    late = timeline([1.5, 2.0], scheduled=1.0, sent=1.4)
    assert metrics.ttft(late) == metrics.ttft(prompt) == 0.5
    assert metrics.e2e(late) == metrics.e2e(prompt) == 1.0


def test_output_token_time_of_a_whole_pass_is_its_seconds_over_its_tokens():
    assert samples("output_token_time", whole(0, 4, [PLAIN, CHUNKED, ONE])) == [0.5]
    assert samples("output_token_time", whole(10, 14, [])) == []


def test_rates_are_those_of_a_steady_state_with_as_many_in_flight():
    repeat = two_slots(slo=Slo(ttft=5))
    assert samples("ttft", repeat) == [1, 1]
    assert samples("goodput", repeat) == pytest.approx([1])
    assert samples("output_token_time", repeat) == pytest.approx([0.5])


def test_goodput_is_none_met_and_not_unknown_where_nothing_completed():
    assert samples("goodput", Repeat(0, 4, [], [ONE], slo=Slo(ttft=5), due={"": 1})) == [0]


def test_an_idle_slot_lowers_the_rate():
    busy = [timeline([1, 2], scheduled=0)]
    assert samples("output_token_time", Repeat(0, 2, busy, busy)) == [1]
    assert samples("output_token_time", Repeat(0, 4, busy, busy)) == [2]


def test_handoffs_are_the_connectors_own_records():
    repeat = whole(0, 4, [PLAIN], transfers=[(0.5, 100), (0.25, 100), (0.0, 100)])
    assert samples("handoff", repeat) == [0.5, 0.25, 0.0]
    assert samples("handoff_bandwidth", repeat) == [200, 400]
    assert samples("handoff", whole(0, 4, [PLAIN])) == samples("handoff_bandwidth", whole(0, 4, [PLAIN])) == []


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        pytest.param(Slo(ttft=0.5), 2, id="ttft"),
        pytest.param(Slo(ttft=0.49), 1, id="tighter-ttft"),
        pytest.param(Slo(tpot=0.5), 3, id="tpot-met-by-one-token"),
        pytest.param(Slo(tpot=0.2), 2, id="tighter-tpot"),
        pytest.param(Slo(ttft=0.5, tpot=0.2), 1, id="both"),
        pytest.param(Slo(ttft=0.01), 0, id="none"),
    ],
)
def test_goodput_counts_requests_that_meet_every_slo(slo, met):
    repeat = whole(0, 4, [PLAIN, CHUNKED, ONE], slo=slo)
    assert samples("goodput", repeat) == [met / 4]
    shared = whole(0, 4, [PLAIN, CHUNKED, ONE], slo=slo, devices=2)
    assert samples("goodput", shared) == [met / 8]


def test_goodput_needs_an_slo():
    assert samples("goodput", whole(0, 4, [PLAIN])) == []


@pytest.mark.parametrize(
    ("requests", "share"),
    [([PLAIN], 0), ([CHUNKED], 2 / 3), ([PLAIN, CHUNKED], 2 / 5), ([ONE], None), ([], None)],
    ids=["plain", "chunked", "both", "one-token", "none"],
)
def test_chunked_share(requests, share):
    assert metrics.chunked_share(requests) == share


def test_only_rates_are_better_when_higher():
    rates = {"goodput", "request_rate", "input_token_rate", "output_token_rate"}
    assert {m.name for m in METRICS if not m.lower_is_better} == {"handoff_bandwidth", "attainment", *rates}
    assert {metric.name: metric.unit for metric in METRICS if metric.unit != "s"} == {
        "handoff_bandwidth": "B/s",
        **dict.fromkeys(rates, "1/s"),
        "attainment": "share",
        "energy_per_output_token": "J",
    }


def test_energy_is_of_the_whole_pass_and_unknown_without_a_counter():
    def repeat(joules):
        return Repeat(0, 2, [PLAIN], [PLAIN, CHUNKED, ONE], joules=joules)

    assert samples("energy_per_output_token", repeat(16.0)) == [2.0], "3 + 4 + 1 tokens, whichever of them counts"
    assert samples("energy_per_output_token", repeat(None)) == []
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(("percentile", "needed"), [(50, 8), (90, 51), (95, 104), (99, 528)])
def test_a_percentile_needs_its_samples(percentile, needed):
    p = percentile / 100
    assert samples_needed(percentile) == needed
    assert 1 - p**needed >= 0.995 > 1 - p ** (needed - 1)


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
def test_a_percentile_is_null_one_sample_below_its_floor(percentile):
    needed = samples_needed(percentile)
    below, at = (summarize(range(count), "s").model_dump() for count in (needed - 1, needed))
    assert below[f"p{percentile}"] is None
    assert at[f"p{percentile}"] == pytest.approx((needed - 1) * percentile / 100)


def test_a_summary_of_enough_samples_is_whole():
    values = np.random.default_rng(0).permutation(1001)
    assert summarize(values, "s").model_dump() == {
        "unit": "s",
        "count": 1001,
        "mean": 500.0,
        "p50": 500.0,
        "p90": 900.0,
        "p95": 950.0,
        "p99": 990.0,
    }


def test_a_summary_of_nothing_is_null():
    empty = {"unit": "B/s", "count": 0, "mean": None, "p50": None, "p90": None, "p95": None, "p99": None}
    assert summarize([], "B/s").model_dump() == empty


NONE = {
    "nan": (lambda _: [1.0, math.nan], "2 of 4 samples are no number (nan)"),
    "inf": (lambda _: [math.inf], "2 of 2 samples are no number (inf)"),
    "an error": (lambda _: [1 / 0], "ZeroDivisionError: division by zero"),
    "text": (lambda _: ["fast"], "ValueError: could not convert string to float: 'fast'"),
    "nothing to go through": (lambda _: None, "TypeError: 'NoneType' object is not iterable"),
}


@pytest.mark.parametrize("kind", NONE)
def test_a_metric_that_is_no_number_is_missing_with_its_reason_and_costs_no_other(kind):
    formula, reason = NONE[kind]
    metrics = (*METRICS, Metric("mine", "s", formula))
    found = summaries(metrics, [two_slots(), two_slots()])
    mine = found.pop("mine")
    assert (mine.count, mine.mean, mine.p50, mine.missing) == (0, None, None, reason)
    assert found == summaries(METRICS, [two_slots(), two_slots()])
    assert found["ttft"].mean is not None
    assert "missing" not in found["ttft"].model_dump()


def test_a_metric_that_is_none_or_has_no_such_statistic_is_refused():
    with pytest.raises(UsageProblem, match="'x' is no Metric"):
        extended(["x"])
    with pytest.raises(UsageProblem, match="metric 'mine': statistic 'max' is none of mean, p50"):
        extended([Metric("mine", "s", lambda _: [], statistic="max")])
