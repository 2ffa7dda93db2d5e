from dataclasses import replace

import pytest

from context_research.engines.base import Counters
from context_research.measure.checks import judge
from context_research.measure.checks.kv_transport import Transport
from context_research.measure.checks.output_parity import NoReference, Reference
from context_research.measure.client_lag import Lag
from context_research.measure.metrics import Repeat
from context_research.records.case import CheckRecord
from context_research.records.reference import OutputRecord
from tests.support.timelines import timeline

BLOCK, KV = 16, 1000
WHOLE = 7 * BLOCK * KV
"""Bytes of a prompt of 100 tokens in blocks of 16."""


def good(count=3, **values):
    base = {"prompt_tokens": 100, "decode_cached_tokens": 99, "prefill_cached_tokens": 0}
    return [timeline([1.0], **(base | values)) for _ in range(count)]


def counters(count=3, **values):
    return Counters(**({"prompt_external": 99 * count, "transfers": [(0.1, WHOLE)] * count} | values))


def disaggregated(timelines=None, decode=None, faults=None):
    return judge.disaggregated(timelines or good(), decode or counters(), faults or {}, BLOCK, KV)


def test_complete_passes_with_every_request_done():
    check = judge.complete(3, good(), [])
    assert (check.check, check.status, check.evidence) == (
        "complete",
        "pass",
        "3 of 3 requests finished with the asked tokens",
    )


def test_requests_around_the_window_are_not_counted_but_must_end_well():
    around = good(1, phase="ramp") + good(1, phase="warmup") + good(1, phase="drain")
    assert judge.complete(3, [*around, *good()], []).status == "pass"
    cut = timeline([1.0], asked=2, phase="drain")
    check = judge.complete(3, [cut, *good()], [])
    assert (check.status, check.evidence) == ("fail", "3 of 3 requests finished with the asked tokens; cut short")


@pytest.mark.parametrize(
    ("asked", "timelines", "dead", "evidence"),
    [
        pytest.param(3, [*good(2), timeline([1.0], asked=2, error="ended early")], [], "ended early", id="error"),
        pytest.param(3, [*good(2), timeline([1.0], asked=2)], [], "2 of 3", id="too-few-tokens"),
        pytest.param(3, [*good(2), timeline([1.0, 2.0], asked=1)], [], "2 of 3", id="too-many-tokens"),
        pytest.param(3, good(2), [], "1 never sent", id="never-sent"),
        pytest.param(3, [*good(1), *good(2, error="died")], [], "2 × died", id="many-errors"),
        pytest.param(3, [], [], "3 never sent", id="none"),
        pytest.param(3, good(), ["prefill"], "engine 'prefill' died", id="died-after-the-last"),
    ],
)
def test_complete_fails(asked, timelines, dead, evidence):
    check = judge.complete(asked, timelines, dead)
    assert check.status == "fail"
    assert evidence in check.evidence


def test_a_failed_warm_up_fails_and_counts_for_no_request():
    warm = timeline([], asked=1, phase="warmup", error="died")
    told = "0 of 3 requests finished with the asked tokens; died; 3 never sent"
    assert judge.complete(3, [warm], []).evidence == told


def test_disaggregated_is_not_for_aggregated():
    check = judge.disaggregated(good(decode_cached_tokens=None), None, {}, BLOCK, KV)
    assert check.status == "n/a"


def test_disaggregated_passes_with_its_evidence():
    check = disaggregated()
    assert check.status == "pass"
    assert check.evidence == (
        "297 of 300 prompt tokens external, at most 1 a request computed on decode (the protocol's own: 1); "
        "3 transfers for 3 requests, 336000 bytes of 21 blocks × 16 tokens × 1000; faults: none"
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
        pytest.param(good(3, decode_cached_tokens=None), None, None, "at most 300", id="none-decoded"),
        pytest.param(None, counters(prompt_external=296), None, "296 of 300", id="too-few-external"),
        pytest.param(None, counters(transfers=[(0.1, WHOLE)] * 2), None, "2 transfers for 3", id="too-few-transfers"),
        pytest.param(None, counters(transfers=[(0.1, WHOLE)] * 4), None, "4 transfers for 3", id="too-many-transfers"),
        pytest.param(
            None,
            counters(transfers=[(0.1, WHOLE), (0.1, WHOLE - 1), (0.1, WHOLE + 1)]),
            None,
            "336000 bytes of 21",
            id="right-only-in-sum",
        ),
        pytest.param(None, None, {"num_failed_transfers": 1}, "num_failed_transfers", id="faults"),
    ],
)
def test_disaggregated_fails_by_any_one_thing(timelines, decode, faults, evidence):
    check = disaggregated(timelines, decode, faults)
    assert check.status == "fail"
    assert evidence in check.evidence


def test_disaggregated_proves_nothing_without_requests():
    assert judge.disaggregated([], Counters(), {}, BLOCK, KV).status != "pass"


def seen(**values):
    return Transport(
        **({"name": "shared memory", "ceiling": 10e9, "cure": "", "floor": 0.01, "grace_s": 0.001} | values)
    )


def test_transport_judges_the_fastest_transfer():
    check = judge.transport(seen(), [(0.5, 10_000_000), (0.01, 10_000_000), (9.0, 10_000_000)])
    assert check.status == "pass"
    assert "10 MB in 10 ms = 1 GB/s, 10.00% of a plain copy" in check.evidence


@pytest.mark.parametrize(
    ("transport", "transfers", "evidence"),
    [
        pytest.param(seen(cure="unset UCX_TLS"), [(0.01, 10_000_000)], "unset UCX_TLS", id="wrong-transport"),
        pytest.param(seen(), [(0.102, 10_000_000)], "slower than the 101 ms", id="slow"),
    ],
)
def test_transport_fails(transport, transfers, evidence):
    check = judge.transport(transport, transfers)
    assert check.status == "fail"
    assert evidence in check.evidence


@pytest.mark.parametrize(("transport", "transfers"), [(None, []), (seen(), [])])
def test_transport_needs_a_transfer(transport, transfers):
    assert judge.transport(transport, transfers).status == "n/a"


def cache(timelines, engines=None, resets=None, expected=0):
    each = [expected] * len(timelines)
    return judge.cache(timelines, engines or {"aggregated": Counters()}, resets or {"a": True}, "cold", each)


def test_cache_passes_in_the_declared_state():
    assert cache(good()).status == "pass"
    warm = {"prefill": Counters(cache_hits=3 * 96), "decode": Counters()}
    assert cache(good(prefill_cached_tokens=96), warm, expected=96).status == "pass"
    failed = timeline([], asked=1, error="died", prefill_cached_tokens=None)
    assert cache([*good(), failed]).status == "pass", "`complete` names it"


@pytest.mark.parametrize(
    ("arguments", "evidence"),
    [
        pytest.param({"timelines": [*good(), *good(1, prefill_cached_tokens=64)]}, "1 of 4 requests", id="hit"),
        pytest.param({"timelines": good(), "expected": 96}, "3 of 3 requests had others", id="miss"),
        pytest.param(
            {"timelines": [*good(), *good(2, prefill_cached_tokens=None)]}, "of 2 of 5 requests the engine", id="untold"
        ),
        pytest.param({"timelines": good(), "resets": {"a": True, "b": False}}, "b could not be emptied", id="pinned"),
        pytest.param(
            {"timelines": good(), "engines": {"prefill": Counters(), "decode": Counters(prompt_cached=16)}},
            "decode had 16",
            id="decode's own",
        ),
        pytest.param(
            {"timelines": good(), "engines": {"aggregated": Counters(cache_hits=5)}}, "0 hits were due", id="miscounted"
        ),
    ],
)
def test_cache_fails(arguments, evidence):
    check = cache(**arguments)
    assert check.status == "fail"
    assert evidence in check.evidence


def client(send, loop, once=0.0, times=(1.0, 1.125, 1.25)):
    served = [timeline(times, scheduled=0.0)] * 3
    return judge.client(served, Lag(send, loop, once), Lag(0.001, 0.002, 0.003))


def test_the_clients_bounds_come_from_the_run():
    check = client(0.125, 0.125)
    assert check.status == "pass"
    assert "sent 125 ms late (at most 125 ms), event loop 125 ms late (at most 125 ms" in check.evidence
    assert "null engine 1 ms and 2 ms" in check.evidence
    assert client(0.126, 0.0).status == client(0.0, 0.126).status == "fail"


def test_a_client_that_was_blocked_once_fails_however_long_the_case():
    assert client(0.0, 0.0, once=1.25).status == "pass"
    assert client(0.0, 0.0, once=1.26).status == "fail"


def test_one_token_a_request_is_judged_too():
    assert client(0.101, 0.0, times=(1.0,)).status == "fail"


def test_pressure_allows_no_preemption_unless_declared():
    engines = {"aggregated": Counters(generated=9, preemptions=1, kv_usage_max=0.5)}
    assert judge.pressure({"aggregated": Counters(generated=9)}, allowed=False).status == "pass"
    assert judge.pressure(engines, allowed=False).status == "fail"
    assert judge.pressure(engines, allowed=True).status == "pass"
    assert "allowed" in judge.pressure(engines, allowed=True).evidence


def test_an_engine_that_counts_nothing_has_not_shown_that_it_preempted_nothing():
    check = judge.pressure({"prefill": Counters(generated=3), "decode": Counters()}, allowed=True)
    assert check.status == "fail"
    assert check.evidence.endswith("; decode counted no token at all")


def output(tokens, alternatives):
    return OutputRecord(token_ids=tuple(tokens), alternatives=tuple(alternatives))


def parity(tokens, exact=True):
    reference = Reference({"0": output([5, 6], [{"5": -1.0, "1": -1.8}, {"6": -1.0, "7": -1.75, "8": -3}])}, "X")
    return judge.parity([timeline([1.0, 2.0], token_ids=tokens)], reference, exact)


@pytest.mark.parametrize(
    ("tokens", "exact", "sixteen_bits"),
    [
        pytest.param([5, 6], "pass", "pass", id="equal"),
        pytest.param([5, 7], "fail", "pass", id="near-tie"),
        pytest.param([5, 8], "fail", "fail", id="far"),
        pytest.param([5, 9], "fail", "fail", id="unlikely"),
        pytest.param([4, 6], "fail", "fail", id="first"),
    ],
)
def test_parity_allows_a_near_tie_in_sixteen_bits_only(tokens, exact, sixteen_bits):
    assert parity(tokens).status == exact
    assert parity(tokens, exact=False).status == sixteen_bits


def test_parity_names_what_differs():
    assert parity([5, 8]).evidence.endswith("r: token 1 is 8, not 6")
    assert parity([5, 8], exact=False).evidence.endswith("r: token 1 is 8, not 6 (2 nats less likely)")


def test_a_token_that_is_not_listed_is_less_likely_than_all_that_are():
    """Seen on an H200: with five listed, all five within 0.125 nats, the sixth was called a wrong token."""
    assert parity([4, 6], exact=False).evidence.endswith("r: token 0 is 4, not 5 (more than 0.8 nats less likely)")
    even = Reference({"0": output([5, 5], [{"5": -1.0, "6": -1.05, "7": -1.1}] * 2)}, "X")
    assert judge.parity([timeline([1.0, 2.0], token_ids=[8, 9])], even, False).status == "not provable"


def test_parity_tells_of_near_ties():
    told = parity([5, 7], exact=False).evidence
    assert told.startswith("1 of 2 tokens of 1 sampled requests are those of ")
    assert "1 of them differ by a near-tie (token 1; the widest 0.75 nats less likely)" in told
    assert told.endswith("what follows can't be compared")


def test_parity_of_outputs_that_all_differ_at_once_proves_nothing():
    """Near-ties each: not a token has been compared."""
    even = Reference({"0": output([5, 5], [{"5": -1.0, "6": -1.05}] * 2)}, "X")
    check = judge.parity([timeline([1.0, 2.0], token_ids=[6, 9])], even, False)
    assert (check.status, check.evidence.partition(";")[0]) == (
        "not provable",
        "0 of 2 tokens of 1 sampled requests are those of X",
    )


def test_parity_with_a_reference_that_depends_on_no_prompt_proves_nothing():
    alike = Reference({"0": output([5, 7], []), "1": output([5, 7], [])}, "X")
    check = judge.parity([timeline([1.0, 2.0], token_ids=[5, 7])], alike, True)
    assert check.status == "not provable"
    assert "X gave all 2 sampled prompts the same tokens" in check.evidence


def test_parity_is_what_its_lack_of_a_reference_makes_of_it():
    check = judge.parity(good(), NoReference("fail", "no reference could be made: it died"), True)
    assert (check.status, check.evidence) == ("fail", "no reference could be made: it died")


def test_parity_says_why_it_does_not_apply():
    assert judge.parity(good(), NoReference("n/a", "dummy weights"), True) == CheckRecord(
        check="parity", status="n/a", evidence="dummy weights"
    )
    assert judge.parity(good(), Reference({}, "X"), True).status == "n/a"


def in_turn(*spans, **values):
    return [timeline([(a + b) / 2, b], scheduled=a, finished=b, **values) for a, b in spans]


def test_a_window_under_full_load_passes():
    served = in_turn((0, 2), (0, 2), (2, 4), (2, 4))
    check = judge.window([Repeat(1, 3, served, served)], [Repeat(0, 4, served, served)], 2)
    assert check.status == "pass"
    assert "2 in flight during 100.0% of the windows; 2.00 s of 4.00 s left out" in check.evidence


def test_a_window_tells_its_rates():
    """On an H200 a window of one wave held 26 % fewer tokens a second than the requests' own times say."""
    ramp, measured, drain = in_turn((0, 2), (0, 3)), in_turn((2, 4), (3, 5)), in_turn((4, 6), (5, 8))
    served = ramp + measured + drain
    check = judge.window([Repeat(2, 5, measured, served)], [Repeat(0, 8, served, served)], 2)
    assert check.evidence.endswith("tokens/s 2 by Little's law, counted 2.333 in the windows and 1.5 over all")


def test_a_window_with_an_idle_slot_fails():
    served = in_turn((0, 2), (0, 1), (2, 4))
    assert judge.window([Repeat(0, 4, served, served)], [Repeat(0, 4, served, served)], 2).status == "fail"


WATERFALL = {"scheduled": 0.0, "prefill_started": 0.0}


@pytest.mark.parametrize(
    ("covered", "device", "status"), [(0.96, "cpu", "pass"), (0.94, "cpu", "fail"), (0.96, "cuda", "fail")]
)
def test_the_waterfall_must_cover_ttft(covered, device, status):
    served = [timeline([1.0], prefill_finished=covered, prompt_tokens=4096, **WATERFALL)] * 3
    assert judge.ttft_waterfall(served, device).status == status
    short = [replace(each, prompt_tokens=4095) for each in served]
    assert judge.ttft_waterfall(short, device).status == "n/a"
    assert judge.ttft_waterfall([*short, *served], device).status == status, "long prompts alone"


def test_nothing_measured_passes_no_check():
    checks = [
        judge.cache([], {}, {}, "cold", []),
        judge.client([], Lag(0, 0, 0), None),
        judge.window([], [], 1),
        judge.ttft_waterfall([], "cpu"),
    ]
    assert {check.status for check in checks} == {"n/a"}
