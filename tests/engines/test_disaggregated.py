"""Prefill and decode on two real engines: the handoff works, shows, and is guarded."""

import pytest

from context_research.engines.loop import process_loop
from context_research.engines.vllm import handoff
from context_research.measure.case import measure
from context_research.request import Leg
from context_research.workload.case import point
from context_research.workload.prompts import requests
from tests.support.settings import tolerant


def case(serving, **values):
    """Three requests of 300 tokens in flight."""
    small = {"workload__requests": 6, "workload__repeats": 2, "workload__output_tokens": 12}
    return point(tolerant(serving, **(small | values)), 300, 3)


@pytest.fixture(scope="module")
def split(disaggregated, tiny):
    return measure(case("disaggregated"), tiny, disaggregated)


@pytest.fixture(scope="module")
def whole(aggregated, tiny):
    return measure(case("aggregated"), tiny, aggregated)


def test_every_request_finishes_with_the_asked_tokens(split, whole):
    assert split.failure is None
    assert whole.failure is None
    assert [len(repeat.timelines) for repeat in split.repeats] == [6, 6]


def test_decode_gets_all_but_one_prompt_token_from_prefill(split):
    assert all(0 <= timeline.computed_on_decode <= 1 for timeline in split.timelines)
    counted, sent = split.proof.counted, 12 + 2 * (3 + 2)
    assert counted["decode"].prompt_external >= sent * (300 - 1)
    assert counted["prefill"].prompt_computed == sent * 300 + 2, "and the tick's two tokens"


def test_the_connector_records_one_transfer_a_request(split, tiny):
    transfers = split.proof.counted["decode"].transfers
    assert len(transfers) == 12 + 2 * (3 + 2)
    assert all(seconds > 0 and size == 3 * 128 * tiny.kv_bytes_per_token for seconds, size in transfers)
    assert split.proof.faults == {}


def test_both_modes_send_the_same_bytes_and_generate_the_same_tokens(split, whole):
    told = [{t.request: (t.prompt_sha256, t.token_ids) for t in result.timelines} for result in (split, whole)]
    assert told[0] == told[1]
    assert len({tuple(tokens) for _, tokens in told[0].values()}) == len(told[0])


def test_a_timeline_passes_through_both_engines_in_order(split):
    for timeline in split.timelines:
        stages = [
            timeline.scheduled,
            timeline.sent,
            timeline.prefill_queued,
            timeline.prefill_started,
            timeline.prefill_finished,
            timeline.decode_sent,
            timeline.decode_queued,
            timeline.handoff_started,
            timeline.handoff_finished,
            timeline.decode_started,
            *timeline.token_times,
        ]
        assert stages == sorted(stages)


def test_an_aggregated_timeline_has_no_handoff(whole):
    for timeline in whole.timelines:
        assert timeline.decode_sent is timeline.decode_queued is timeline.decode_cached_tokens is None
        assert timeline.scheduled <= timeline.sent <= timeline.prefill_started <= timeline.prefill_finished


def test_prefill_alone_says_where_its_kv_is(disaggregated, tiny):
    (request, *_) = requests(case("disaggregated", seed=5), tiny.vocabulary, 0)
    prefill, leg = disaggregated.of_role("prefill")[0], Leg("prefill")
    process_loop().run(prefill.serve(request, leg, output_tokens=1, handoff=handoff.PREFILL_PARAMETERS))
    parameters = handoff.guarded(leg.handoff)
    assert parameters["do_remote_prefill"] is True
    assert "remote_prefill_cached_tokens" not in parameters
    # Fetch it after all: KV that nobody fetches is reported as expired half a minute later, in another test's counts.
    decode = Leg("decode")
    process_loop().run(disaggregated.of_role("decode")[0].serve(request, decode, output_tokens=2, handoff=parameters))
    assert decode.cached_tokens >= 299


def test_a_prefill_answer_without_kv_never_reaches_decode(disaggregated, tiny, monkeypatch):
    """A prefill leg that asks for no handoff is answered without parameters; decode would recompute in silence."""
    (request, *_) = requests(case("disaggregated", seed=6), tiny.vocabulary, 0)
    monkeypatch.setattr(handoff, "PREFILL_PARAMETERS", {})
    before = disaggregated.of_role("decode")[0].counters.snapshot()
    timeline = process_loop().run(disaggregated.serve(request, 0, 0.0))
    assert "no KV to hand over" in timeline.error
    assert disaggregated.of_role("decode")[0].counters.since(before).prompt_computed == 0


def test_a_request_that_does_not_end_in_time_is_cut_off_and_named(disaggregated, tiny, monkeypatch):
    endless = case("disaggregated", seed=7, workload__output_tokens=4000)
    (request, *_) = requests(endless, tiny.vocabulary, 0)
    monkeypatch.setattr(disaggregated, "_timeout_s", 1.0)
    timeline = process_loop().run(disaggregated.serve(request, 0, 0.0))
    assert timeline.error == "no end after 1 s (on decode engine 'decode')"
    assert 0 < len(timeline.token_times) < 4000
    assert timeline.prefill_finished is not None
