import json

import pytest

from context_research.records.requests import MOMENTS, LegRecord, RequestRecord
from context_research.request import Leg, add_reads
from tests.support.timelines import timeline


def leg(name, at, tokens=(), role="aggregated", **values):
    """A leg whose stages are a second apart from `at` on."""
    tokens = list(tokens)
    stages = {"sent": at, "queued": at + 1, "started": at + 2, "first_token": at + 3}
    return Leg(name, role, token_times=tokens, token_ids=[7] * len(tokens), **(stages | values))


def of(*legs, asked=2, **values):
    made = timeline(asked=asked, **values)
    made.legs[:] = legs
    return made


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
    one = of(leg("a", 10.0, [13.5, 14.5], cached_tokens=0, finish_reason="length"), scheduled=9.0)
    assert (one.scheduled, one.sent) == (9.0, 10.0)
    assert (one.prefill_queued, one.prefill_started, one.prefill_finished) == (11.0, 12.0, 13.0)
    assert (one.token_times, one.finished, one.finish_reason) == ([13.5, 14.5], 14.5, "length")
    assert one.prefill_cached_tokens == 0
    assert one.prefill_engine == one.decode_engine == "a"
    assert one.decode_sent is one.decode_queued is one.decode_started is one.computed_on_decode is None
    assert one.complete


def test_a_disaggregated_timeline_takes_its_tokens_from_decode():
    prefill = leg("p", 10.0, [13.5], "prefill", cached_tokens=4, finish_reason="length")
    decode = leg("d", 20.0, [23.5, 24.5], "decode", cached_tokens=7, finish_reason="stop")
    one = of(prefill, decode, prompt_tokens=8)
    assert (one.sent, one.prefill_queued, one.prefill_started, one.prefill_finished) == (10.0, 11.0, 12.0, 13.0)
    assert (one.decode_sent, one.decode_queued, one.decode_started) == (20.0, 21.0, 22.0)
    assert (one.token_times, one.finished, one.finish_reason) == ([23.5, 24.5], 24.5, "stop")
    assert (one.prefill_cached_tokens, one.decode_cached_tokens, one.computed_on_decode) == (4, 7, 1)
    assert (one.prefill_engine, one.decode_engine) == ("p", "d")


def test_a_failed_prefill_leaves_what_it_got():
    one = of(leg("p", 10.0, [13.5], "prefill", first_token=None), scheduled=9.0)
    assert (one.sent, one.prefill_started, one.prefill_finished) == (10.0, 12.0, None)
    assert one.decode_sent is one.finished is one.computed_on_decode is None
    assert one.token_times == []
    assert not one.complete


@pytest.mark.parametrize("legs", [(), (Leg("a"),)], ids=["no engine was chosen", "its engine never sent it"])
def test_what_was_never_sent_leaves_the_scheduled_time(legs):
    assert of(*legs, scheduled=9.0).sent == 9.0


def test_a_record_counts_from_the_cases_start():
    one = of(leg("a", 12.25, [13.5, 14.5], cached_tokens=3), scheduled=12.0, prompt_tokens=8)
    record = RequestRecord.of(one, "p8-c1", 12.0)
    assert (record.scheduled, record.token_times) == (0.0, (1.5, 2.5))
    assert [getattr(record.legs[0], name) for name in MOMENTS] == [0.25, 1.25, 2.25, 3.25, None, None]
    assert (record.prompt_tokens, record.legs[0].cached_tokens, record.error) == (8, 3, None)
    assert one.token_times == [13.5, 14.5], "the timeline itself is left alone"


def test_every_moment_of_a_leg_is_named_as_one():
    """A float that is no moment must not be shifted, nor a moment be left."""
    floats = {name for name, field in LegRecord.model_fields.items() if "float" in str(field.annotation)}
    assert floats == set(MOMENTS)


def test_a_record_read_back_is_the_timeline():
    prefill = leg("p", 10.0, [13.5], "prefill", cached_tokens=4)
    decode = leg("d", 20.0, [23.5, 24.5], "decode", cached_tokens=7, read_started=20.5, read_finished=20.75)
    one = of(prefill, decode, scheduled=9.5, prompt_tokens=8, phase="ramp", error="none of ours")
    line = json.loads(json.dumps(RequestRecord.of(one, "p8-c1", 0.0).model_dump(mode="json"), allow_nan=False))
    again = RequestRecord.model_validate(line).timeline()
    prefill.token_times, prefill.token_ids, decode.token_ids = [], [], []  # only what the client got is kept
    assert again == one


def test_a_record_keeps_tenths_of_a_microsecond():
    assert RequestRecord.of(timeline([1000.1234567]), "c", 1000.0).token_times == (0.1234567,)


@pytest.mark.parametrize("suffix", ["", "-1a2b3c4d"], ids=["as sent", "vLLM's suffix"])
def test_reads_find_their_requests(suffix):
    timelines = [timeline([1.0], request=f"e0-a-000{number}", decode_sent=0.1) for number in (0, 1)]
    add_reads(timelines, [(f"e0-a-0001{suffix}", 0.25, 0.5), (f"other{suffix}", 7.0, 8.0)])
    assert (timelines[0].handoff_started, timelines[0].handoff_finished) == (None, None)
    assert (timelines[1].handoff_started, timelines[1].handoff_finished) == (0.25, 0.5)
