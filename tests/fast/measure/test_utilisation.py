import pytest

from context_research.measure import utilisation
from context_research.measure.metrics import Repeat
from tests.support.timelines import timeline


def test_rates_are_of_the_measured_requests_and_busy_time_is_the_windows():
    one = timeline([2.0, 3.0], prompt_tokens=100, prefill_started=0.0, prefill_finished=1.5, finished=3.0)
    split = {"prefill_started": 1.0, "prefill_finished": 2.0, "decode_started": 3.5}
    two = timeline([4.0, 9.0], prompt_tokens=60, prefill_cached_tokens=20, **split)
    ramp = timeline([0.5, 1.5], prompt_tokens=70, prefill_started=0.0, prefill_finished=0.2, finished=1.5)
    repeat = Repeat(1.0, 5.0, [one, two], [ramp, one, two])
    found = utilisation.summarize([repeat])
    rates = {"prefill": (100 + 40) / repeat.steady_seconds, "decode": 4 / repeat.steady_seconds}
    assert {role: figures.tokens_per_s for role, figures in found.items()} == pytest.approx(rates)
    assert {role: figures.busy_share for role, figures in found.items()} == {"prefill": 1 / 4, "decode": 3.5 / 4}


def test_spans_that_overlap_are_busy_once():
    same = [timeline([4.0], prefill_started=0.0, prefill_finished=2.0, finished=4.0)] * 3
    assert utilisation.summarize([Repeat(0.0, 4.0, same, same)])["prefill"].busy_share == 0.5


def test_nothing_measured_has_no_roles():
    assert utilisation.summarize([]) == utilisation.summarize([Repeat(0.0, 0.0, [], [])]) == {}
