import pytest

from context_research.measure.progress import Progress
from context_research.plugin.progress import format_progress
from context_research.request import Request


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def begun(clock, moments=(), **values):
    """In a pass whose requests are due at these moments; the last one keeps the load up."""
    progress = Progress("e2 rate_4", clock=clock, **({"total": 53} | values))
    phases = ["measured"] * (len(moments) - 1) + ["drain"]
    progress.begin([Request("r", [1], 1, 0, 0.0, "", *each) for each in zip(phases, moments, strict=False)])
    return progress


def test_a_closed_loop_shows_requests_rate_and_time(clock):
    progress = begun(clock)
    progress.sent, progress.done, progress.output_tokens = 16, 12, 1200
    clock.now += 6
    assert format_progress(progress) == "e2 rate_4: 12/53 requests, 200 tokens/s, 6 s, 20 s left"


def test_progress_can_be_shown_at_once(clock):
    assert format_progress(begun(clock)) == "e2 rate_4: 0/53 requests, 0 tokens/s, 0 s"
    assert format_progress(begun(clock, [0.5, 1.0])) == (
        "e2 rate_4: 0 due, 0 in flight, 0 done, 0.0/s, 0 tokens/s, 0 s left"
    )


def test_a_timed_load_shows_what_is_due_though_it_was_not_sent(clock):
    progress = begun(clock, [1.0, 2.0, 3.0, 40.0, 80.0], passes=3)
    clock.now += 10
    progress.sent, progress.done, progress.output_tokens = 2, 1, 50
    assert format_progress(progress) == (
        "e2 rate_4: 3 due, 1 in flight, 1 done, 0.1/s, 5 tokens/s, 110 s left"  # 30 of this pass, 40 of two each
    )


def test_counts_go_on_in_the_next_pass_and_rates_begin_anew(clock):
    progress = begun(clock, [1.0, 2.0], passes=2)
    progress.sent = progress.done = 2
    progress.output_tokens = 200
    clock.now += 100
    progress.begin([Request("r", [1], 1, 0, 0.0, "", "measured", moment) for moment in (1.0, 2.0, 8.0)])
    clock.now += 4
    progress.sent, progress.done, progress.output_tokens = 4, 3, 240
    assert format_progress(progress) == "e2 rate_4: 4 due, 1 in flight, 3 done, 0.2/s, 10 tokens/s, 4 s left"


def test_time_left_of_a_simulation_is_said_to_be_such(clock):
    assert format_progress(begun(clock, [1.0, 2.0], simulated=True)).endswith("s left, simulated")
