"""The parts of TTFT: hand-computed, and adding up."""

import pytest

from context_research.measure import metrics, waterfall
from tests.support.timelines import timeline as made


def timeline(**moments):
    return made([13.0, 13.5], scheduled=10.0, sent=10.1, **moments)


PREFILL = {"prefill_queued": 10.2, "prefill_started": 10.5, "prefill_finished": 11.5}
DECODE = {
    "decode_sent": 11.6,
    "decode_queued": 11.75,
    "handoff_started": 11.8,
    "handoff_finished": 12.0,
    "decode_started": 12.25,
    "decode_first_token": 12.75,
}


def test_disaggregated_parts_are_differences_of_moments():
    assert waterfall.parts(timeline(**PREFILL, **DECODE)) == pytest.approx(
        {
            "client_wait": 0.1,
            "prefill_queue": 0.4,
            "prefill": 1.0,
            "handoff": 0.2,
            "decode_queue": 0.45,
            "first_decode_step": 0.5,
            "unattributed": 0.35,
        }
    )


def test_aggregated_shows_its_own_parts_only():
    assert list(waterfall.parts(timeline(**PREFILL))) == ["client_wait", "prefill_queue", "prefill", "unattributed"]


def test_a_handoff_whose_record_is_missing_is_unattributed():
    unknown = DECODE | {"handoff_started": None, "handoff_finished": None}
    parts = waterfall.parts(timeline(**PREFILL, **unknown))
    assert not {"handoff", "decode_queue"} & set(parts)
    assert parts["unattributed"] == pytest.approx(0.35 + 0.65)
    assert waterfall.unattributed_share(timeline(**PREFILL, **unknown)) == pytest.approx(1.0 / 3.0)


@pytest.mark.parametrize("moments", [{}, PREFILL, PREFILL | DECODE], ids=["no engine times", "aggregated", "split"])
def test_parts_add_up_to_ttft(moments):
    one = timeline(**moments)
    assert sum(waterfall.parts(one).values()) == pytest.approx(metrics.ttft(one), abs=1e-9)


def test_percentiles_need_their_samples():
    few = waterfall.summarize([timeline(**PREFILL)] * 7)
    enough = waterfall.summarize([timeline(**PREFILL)] * 51)
    assert few["prefill"].p50 is None
    assert (enough["prefill"].unit, enough["prefill"].count) == ("s", 51)
    assert (enough["prefill"].p50, enough["prefill"].p90) == pytest.approx((1.0, 1.0))
