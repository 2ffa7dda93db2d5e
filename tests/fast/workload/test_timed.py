"""Open and replayed arrivals: each request at its moment, whatever is in flight. On a clock that jumps."""

import asyncio
from types import SimpleNamespace

import pytest

from context_research.engines.simulated.clock import VirtualTimeLoop
from context_research.workload.arrivals import timed

CASE = SimpleNamespace(concurrency=None)


def request(number, due, phase="measured"):
    return SimpleNamespace(id=number, due=due, phase=phase)


class Served:
    """Serves each request for so many seconds; keeps when it was given and due."""

    def __init__(self, loop, seconds=1.0, stop_at=None, fail_at=None):
        self.loop, self.seconds, self.stop_at, self.fail_at = loop, seconds, stop_at, fail_at
        self.sent, self.due, self.ended, self.in_flight, self.most = {}, {}, {}, 0, 0

    async def __call__(self, request, due):
        self.sent[request.id], self.due[request.id] = self.loop.time(), due
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if request.id == self.fail_at:
                raise RuntimeError("a mistake of ours")
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        self.ended[request.id] = self.loop.time()
        return None if request.id == self.stop_at else request.id


def run(batch, **keywords):
    loop = VirtualTimeLoop()
    loop.now = 100.0  # moments count from the start of the pass, not from the clock's
    served = Served(loop, **keywords)
    try:
        loop.run_until_complete(timed(batch, CASE, served))
    finally:
        loop.close()
    return served


def test_each_is_sent_when_it_is_due_however_many_are_in_flight():
    served = run([request(number, number * 0.25) for number in range(40)], seconds=5.0)
    assert list(served.sent) == list(range(40))
    assert list(served.due.values()) == [100 + number * 0.25 for number in range(40)]
    assert all(served.sent[each] == pytest.approx(served.due[each], abs=1e-6) for each in range(40))
    assert served.most == 20


def test_those_of_one_moment_are_sent_together_in_order():
    served = run([request(number, 2.0) for number in range(5)])
    assert list(served.sent) == list(range(5))
    assert set(served.due.values()) == {102.0}
    assert max(served.sent.values()) == pytest.approx(102.0, abs=1e-6)


def test_the_tail_ends_with_the_last_measured_request():
    window = [request(0, 0.0, "ramp"), request(1, 1.0), request(2, 2.0)]
    served = run([*window, *(request(number, float(number), "tail") for number in range(3, 20))], seconds=5.5)
    assert served.ended[2] == pytest.approx(107.5, abs=1e-6)
    assert list(served.sent) == list(range(8))  # the last one at 7 s; the one due at 8 s is not
    assert set(served.ended) == set(served.sent)  # what was sent is served to its end


def test_a_ramp_does_not_count_as_measured():
    served = run([request(0, 0.0, "ramp"), request(1, 1.0), request(2, 3.0, "tail")], seconds=1.5)
    assert list(served.sent) == [0, 1]


def test_a_request_that_fails_stops_the_sending_and_lets_the_rest_end():
    served = run([request(number, number * 0.5) for number in range(20)], seconds=2.0, stop_at=1)
    assert served.ended[1] == pytest.approx(102.5, abs=1e-6)
    assert max(served.sent) == 4 or max(served.sent) == 5
    assert set(served.ended) == set(served.sent)


def test_a_mistake_of_ours_ends_everything():
    with pytest.raises(ExceptionGroup) as caught:
        run([request(number, number * 0.5) for number in range(20)], fail_at=3)
    assert [str(each) for each in caught.value.exceptions] == ["a mistake of ours"]


def test_what_is_cancelled_sends_no_more():
    loop = VirtualTimeLoop()
    served = Served(loop, seconds=50.0)

    async def main():
        task = asyncio.create_task(timed([request(number, float(number)) for number in range(20)], CASE, served))
        await asyncio.sleep(4.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(main())
    loop.close()
    assert list(served.sent) == [0, 1, 2, 3, 4]
    assert not served.ended
    assert served.in_flight == 0


def test_a_warm_up_without_moments_is_sent_one_by_one():
    served = run([request(number, None, "warmup") for number in range(4)])
    assert served.most == 1
    assert list(served.sent.values()) == pytest.approx([100, 101, 102, 103], abs=1e-6)


def test_nothing_to_send_is_no_error():
    assert run([]).sent == {}
