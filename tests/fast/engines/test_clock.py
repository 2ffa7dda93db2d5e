"""Virtual time: asyncio as it is, with a clock that jumps."""

import asyncio
import math
import time

import pytest

from context_research.engines.loop import EventLoop
from context_research.engines.simulated import clock
from context_research.engines.simulated.clock import VirtualTimeLoop, quantized

pytestmark = pytest.mark.simulated
TICK = 2.0**-30


@pytest.fixture
def loop():
    made = VirtualTimeLoop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def threaded():
    return EventLoop(VirtualTimeLoop(), virtual=True)


def test_time_jumps_to_the_next_timer(loop):
    async def day():
        await asyncio.sleep(86400)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert loop.time() == 0
    assert loop.run_until_complete(day()) == loop.time() == 86400
    assert time.perf_counter() - began < 5


def test_time_stands_still_while_something_is_left_to_do(loop):
    async def busy():
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert loop.run_until_complete(busy()) == 0


def test_timers_fire_in_their_order_and_each_at_its_time(loop):
    seen = []

    async def note(seconds):
        await asyncio.sleep(seconds)
        seen.append((seconds, asyncio.get_running_loop().time()))

    async def all_of_them():
        await asyncio.gather(*map(note, (3, 1, 2, 0.5)))

    loop.run_until_complete(all_of_them())
    assert seen == [(0.5, 0.5), (1, 1), (2, 2), (3, 3)]


def test_a_timeout_fires_at_its_time_and_takes_none(loop):
    async def late():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(300):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert loop.run_until_complete(late()) == 300
    assert time.perf_counter() - began < 5


def test_what_ends_in_time_meets_no_timeout(loop):
    async def early():
        async with asyncio.timeout(2):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert loop.run_until_complete(early()) == 1


def test_another_thread_runs_work_on_it(threaded):
    async def hour():
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - began

    assert threaded.virtual
    assert [threaded.run(hour()) for _ in range(200)] == [3600] * 200
    assert threaded.time() == 200 * 3600


def test_a_loop_without_timers_waits_for_another_thread(threaded):
    before = threaded.time()
    time.sleep(0.05)
    assert threaded.time() == before
    assert threaded.run(asyncio.sleep(0, "here")) == "here"


@pytest.mark.parametrize("seconds", [0.1, 1e-9, 1 / 3, 0.00114012, 2.0**-31])
def test_durations_are_rounded_up_to_the_grid(seconds):
    rounded = quantized(seconds)
    assert seconds <= rounded < seconds + TICK
    assert (rounded / TICK).is_integer()
    assert quantized(rounded) == rounded


def test_every_moment_is_on_the_grid(loop):
    seen = []

    async def walk():
        for divisor in range(3, 200):
            await asyncio.sleep(1 / divisor)
            seen.append(asyncio.get_running_loop().time())

    loop.run_until_complete(walk())
    assert all((moment / TICK).is_integer() for moment in seen)
    # asyncio's own sleep, too: no more than the rounding is added to each.
    exact = math.fsum(1 / divisor for divisor in range(3, 200))
    assert exact <= seen[-1] <= exact + len(seen) * 2 * TICK


def test_the_same_durations_come_out_to_the_bit_whenever_they_begin(loop):
    async def spans():
        now, found = asyncio.get_running_loop().time, []
        for divisor in range(3, 100):
            began = now()
            await clock.sleep(1 / divisor)
            found.append(now() - began)
        return found

    async def later(seconds):
        await clock.sleep(seconds)

    first = loop.run_until_complete(spans())
    assert first == [quantized(1 / divisor) for divisor in range(3, 100)]
    for pause in (0.1, 1 / 7, 12345.678, 1e6 / 3):
        loop.run_until_complete(later(pause))
        assert loop.run_until_complete(spans()) == first


@pytest.mark.parametrize("pending", [0, 1, 7, 30])
def test_of_timers_for_one_moment_the_first_planned_comes_first(loop, pending):
    """Whatever else is planned: another case's timeouts, say, which stay in asyncio's heap when they are cancelled."""
    seen = []

    async def work(name):
        await clock.sleep(1)
        seen.append(name)

    async def all_of_them():
        for late in range(pending):
            loop.call_later(1.5 + late % 3, seen.append, "late").cancel()
        await asyncio.gather(*map(work, range(30)))

    loop.run_until_complete(all_of_them())
    assert seen == list(range(30))


def test_a_timer_never_fires_before_its_time(loop):
    seen = []

    async def plan():
        for ticks in (1, 2, 3):
            loop.call_later(1 + ticks * TICK, lambda: seen.append(loop.time()))
        await asyncio.sleep(2)

    loop.run_until_complete(plan())
    assert seen == [1 + TICK, 1 + 2 * TICK, 1 + 3 * TICK]
