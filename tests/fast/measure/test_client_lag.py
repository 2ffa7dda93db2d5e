import asyncio
import gc
import time

import pytest

from context_research.measure import client_lag
from tests.support.timelines import timeline


def lateness(block=0.0, seconds=0.3):
    found = []

    async def run():
        async with client_lag.watched(found):
            await asyncio.sleep(seconds / 2)
            time.sleep(block)
            await asyncio.sleep(seconds / 2)

    asyncio.run(run())
    return found


def test_every_tick_that_a_blocked_loop_missed_counts():
    late = [one for one in lateness(block=0.2) if one > 0.05]
    assert 13 <= len(late) <= 20, "150 ms of ticks were more than 50 ms late"
    assert max(late) == pytest.approx(0.2, abs=0.05)


def test_the_watch_ends():
    async def run():
        found = []
        async with client_lag.watched(found):
            await asyncio.sleep(0.05)
        count = len(found)
        await asyncio.sleep(0.05)
        return count, len(found)

    before, after = asyncio.run(run())
    assert 0 < before == after


def test_percentiles_of_a_case():
    sent = [timeline([1.0], scheduled=0.0, sent=0.001 * index) for index in range(101)]
    found = client_lag.of(sent, [0.0] * 99 + [0.2, 0.3])
    assert found.send_p99 == pytest.approx(0.099)
    assert (found.loop_p99, found.loop_max) == (0.0, 0.3)


@pytest.mark.parametrize(
    ("ticks", "late", "counts"), [(100, 3, False), (100, 4, True), (1000, 10, False), (1000, 11, True), (2, 2, True)]
)
def test_the_lateness_of_one_hundredth_of_the_time_is_passed_over_and_of_three_ticks(ticks, late, counts):
    assert (client_lag.of([], [0.0] * (ticks - late) + [0.2] * late).loop_p99 > 0) is counts


def test_nothing_sent_is_never_late():
    assert client_lag.of([], []) == client_lag.Lag(0.0, 0.0, 0.0)


def test_a_frozen_heap_is_passed_over_and_given_back():
    class Kept: ...

    kept = Kept()
    with client_lag.frozen_heap():
        assert not any(one is kept for one in gc.get_objects())
        assert gc.get_freeze_count() > 1000
    assert any(one is kept for one in gc.get_objects())
