import pytest

from context_research import validity
from context_research.engines.base import Counters

from .made import timeline

KV = 1000


def good(count=3, **values):
    return [timeline([1.0], prompt_tokens=100, **({"decode_cached_tokens": 99} | values)) for _ in range(count)]


def counters(count=3, **values):
    return Counters(**({"prompt_external": 99 * count, "transfers": [(0.1, 99 * KV)] * count} | values))


def disaggregated(timelines=None, decode=None, faults=None):
    return validity.disaggregated(timelines or good(), decode or counters(), faults or {}, KV)


def test_complete_passes_with_every_request_done():
    check = validity.complete(3, good())
    assert (check.check, check.status, check.evidence) == (
        "complete",
        "pass",
        "3 of 3 requests finished with the asked tokens",
    )


@pytest.mark.parametrize(
    ("asked", "timelines", "evidence"),
    [
        pytest.param(3, [*good(2), timeline([1.0], asked=2, error="ended early")], "ended early", id="error"),
        pytest.param(3, [*good(2), timeline([1.0], asked=2)], "2 of 3", id="too-few-tokens"),
        pytest.param(3, [*good(2), timeline([1.0, 2.0], asked=1)], "2 of 3", id="too-many-tokens"),
        pytest.param(3, good(2), "1 never sent", id="never-sent"),
        pytest.param(3, [*good(1), *good(2, error="died")], "2 × died", id="many-errors"),
        pytest.param(3, [], "3 never sent", id="none"),
    ],
)
def test_complete_fails(asked, timelines, evidence):
    check = validity.complete(asked, timelines)
    assert check.status == "fail"
    assert evidence in check.evidence


def test_a_failed_warm_up_fails_and_counts_for_no_request():
    warm = timeline([], asked=1, repeat=-1, error="died")
    assert validity.complete(3, [warm]).evidence == "0 of 3 requests finished with the asked tokens; died; 3 never sent"
    check = validity.complete(3, [warm, *good()])
    assert (check.status, check.evidence) == ("fail", "3 of 3 requests finished with the asked tokens; died")


def test_disaggregated_is_not_for_aggregated():
    check = validity.disaggregated(good(decode_cached_tokens=None), None, {}, KV)
    assert check.status == "n/a"


def test_disaggregated_passes_with_its_evidence():
    check = disaggregated()
    assert check.status == "pass"
    assert check.evidence == (
        "297 of 300 prompt tokens external; at most 1 a request computed on decode (the protocol allows 1); "
        "3 transfers for 3 requests; 297000 bytes moved of at least 297000; faults: none"
    )


def test_disaggregated_allows_decode_to_compute_nothing():
    decode = counters(prompt_external=300)
    assert disaggregated(good(decode_cached_tokens=100), decode).status == "pass"


@pytest.mark.parametrize(
    ("timelines", "decode", "faults", "evidence"),
    [
        pytest.param([*good(2), *good(1, decode_cached_tokens=98)], None, None, "at most 2 a request", id="recomputed"),
        pytest.param([*good(2), *good(1, decode_cached_tokens=0)], None, None, "at most 100", id="all-recomputed"),
        pytest.param([*good(2), *good(1, decode_cached_tokens=None)], None, None, "at most 1", id="never-decoded"),
        pytest.param(None, counters(prompt_external=296), None, "296 of 300", id="too-few-external"),
        pytest.param(
            None, counters(transfers=[(0.1, 150 * KV)] * 2), None, "2 transfers for 3", id="too-few-transfers"
        ),
        pytest.param(
            None, counters(transfers=[(0.1, 99 * KV)] * 4), None, "4 transfers for 3", id="too-many-transfers"
        ),
        pytest.param(
            None,
            counters(transfers=[(0.1, 99 * KV), (0.1, 99 * KV), (0.1, 99 * KV - 1)]),
            None,
            "296999 bytes moved of at least 297000",
            id="too-few-bytes",
        ),
        pytest.param(None, None, {"num_failed_transfers": 1}, "num_failed_transfers", id="faults"),
    ],
)
def test_disaggregated_fails_by_any_one_thing(timelines, decode, faults, evidence):
    check = disaggregated(timelines, decode, faults)
    assert check.status == "fail"
    assert evidence in check.evidence


def test_disaggregated_proves_nothing_without_requests():
    assert validity.disaggregated([], Counters(), {}, KV).status != "pass"


def test_a_check_is_plain_data():
    assert disaggregated().as_json().keys() == {"check", "status", "evidence"}
