import json

import pytest

from context_research.request import Leg, add_reads, of_aggregated, of_disaggregated
from tests.support.timelines import timeline


def leg(name, at, tokens=(), **values):
    """A leg whose stages are a second apart from `at` on."""
    tokens = list(tokens)
    stages = {"sent": at, "queued": at + 1, "started": at + 2, "first_token": at + 3, "last_token": at + 4}
    return Leg(name, token_times=tokens, token_ids=[7] * len(tokens), **(stages | values))


@pytest.mark.parametrize(
    ("times", "asked", "error", "complete"),
    [
        pytest.param([1, 2], 2, None, True, id="all-tokens"),
        pytest.param([1], 2, None, False, id="too-few"),
        pytest.param([1, 2, 3], 2, None, False, id="too-many"),
        pytest.param([], 2, None, False, id="none"),
        pytest.param([1, 2], 2, "died", False, id="error-after-the-last"),
    ],
)
def test_complete_means_the_asked_tokens_and_no_error(times, asked, error, complete):
    assert timeline(times, asked=asked, error=error).complete is complete


@pytest.mark.parametrize(("cached", "computed"), [(None, None), (7, 1), (8, 0), (0, 8)])
def test_computed_on_decode_is_what_was_not_cached_there(cached, computed):
    assert timeline(prompt_tokens=8, decode_cached_tokens=cached).computed_on_decode == computed


def test_an_aggregated_timeline_has_no_handoff():
    one = timeline(asked=2, scheduled=9.0)
    of_aggregated(one, leg("a", 10.0, [13.5, 14.5], cached_tokens=0, finish_reason="length"))
    assert (one.scheduled, one.sent) == (9.0, 10.0)
    assert (one.prefill_queued, one.prefill_started, one.prefill_finished) == (11.0, 12.0, 13.0)
    assert (one.token_times, one.finished, one.finish_reason) == ([13.5, 14.5], 14.5, "length")
    assert one.prefill_cached_tokens == 0
    assert one.decode_sent is one.decode_queued is one.decode_started is one.computed_on_decode is None
    assert one.complete


def test_a_disaggregated_timeline_takes_its_tokens_from_decode():
    one = timeline(asked=2, prompt_tokens=8)
    prefill = leg("p", 10.0, [13.5], cached_tokens=4, finish_reason="length")
    decode = leg("d", 20.0, [23.5, 24.5], cached_tokens=7, finish_reason="stop")
    of_disaggregated(one, prefill, decode)
    assert (one.sent, one.prefill_queued, one.prefill_started, one.prefill_finished) == (10.0, 11.0, 12.0, 13.0)
    assert (one.decode_sent, one.decode_queued, one.decode_started) == (20.0, 21.0, 22.0)
    assert (one.token_times, one.finished, one.finish_reason) == ([23.5, 24.5], 24.5, "stop")
    assert (one.prefill_cached_tokens, one.decode_cached_tokens, one.computed_on_decode) == (4, 7, 1)


def test_a_failed_prefill_leaves_what_it_got():
    one = timeline(asked=2, scheduled=9.0)
    of_disaggregated(one, leg("p", 10.0, first_token=None), Leg("d"))
    assert (one.sent, one.prefill_started, one.prefill_finished) == (10.0, 12.0, None)
    assert one.decode_sent is one.finished is one.computed_on_decode is None
    assert not one.complete


def test_a_leg_that_was_never_sent_leaves_the_scheduled_time():
    one = timeline(asked=1, scheduled=9.0)
    of_aggregated(one, Leg("a"))
    assert one.sent == 9.0


def test_json_counts_from_the_cases_start():
    one = timeline([13.5, 14.5], scheduled=12.0, sent=12.25, finished=14.5, prompt_tokens=8)
    record = one.as_json(12.0)
    assert (record["scheduled"], record["sent"], record["finished"]) == (0.0, 0.25, 2.5)
    assert record["token_times"] == [1.5, 2.5]
    assert (record["prompt_tokens"], record["prefill_queued"], record["error"]) == (8, None, None)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert one.token_times == [13.5, 14.5], "the timeline itself is left alone"


def test_json_keeps_tenths_of_a_microsecond():
    assert timeline([1000.1234567]).as_json(1000.0)["token_times"] == [0.1234567]


@pytest.mark.parametrize("suffix", ["", "-1a2b3c4d"], ids=["as sent", "vLLM's suffix"])
def test_reads_find_their_requests(suffix):
    timelines = [timeline([1.0], request="e0-a-0000"), timeline([1.0], request="e0-a-0001")]
    add_reads(timelines, [(f"e0-a-0001{suffix}", 0.25, 0.5), (f"other{suffix}", 7.0, 8.0)])
    assert (timelines[0].handoff_started, timelines[0].handoff_finished) == (None, None)
    assert (timelines[1].handoff_started, timelines[1].handoff_finished) == (0.25, 0.5)
