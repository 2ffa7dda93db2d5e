import asyncio
import time
from types import SimpleNamespace

import pytest

from context_research.workload.arrivals import closed, closed_loop


class Server:
    """Serves each request by yielding to the others `turns` times; keeps what it was given."""

    def __init__(self, turns=None, stop_at=None):
        self.turns, self.stop_at = turns or {}, stop_at
        self.order, self.due, self.began, self.ended, self.in_flight, self.most = [], {}, {}, {}, 0, 0

    async def __call__(self, request, due):
        self.order.append(request.id)
        self.due[request.id], self.began[request.id] = due, time.perf_counter()
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        for _ in range(self.turns.get(request.id, 3)):
            await asyncio.sleep(0)
        self.in_flight -= 1
        self.ended[request.id] = time.perf_counter()
        return None if request.id == self.stop_at else request.id


def run(count, concurrency, **keywords):
    server = Server(**keywords)
    batch = [SimpleNamespace(id=index) for index in range(count)]
    return server, asyncio.run(closed_loop(batch, concurrency, server))


@pytest.mark.parametrize(
    ("count", "concurrency", "most"),
    [
        pytest.param(10, 1, 1, id="one-at-a-time"),
        pytest.param(10, 4, 4, id="four-at-a-time"),
        pytest.param(10, 10, 10, id="all-at-once"),
        pytest.param(2, 8, 2, id="fewer-requests-than-slots"),
        pytest.param(0, 4, 0, id="none"),
    ],
)
def test_exactly_the_concurrency_is_in_flight(count, concurrency, most):
    server, results = run(count, concurrency)
    assert server.most == most
    assert sorted(results) == list(range(count))


def test_requests_are_sent_in_order():
    server, _ = run(20, 3, turns={0: 50, 4: 20, 7: 1})
    assert server.order == list(range(20))


def test_results_come_in_order_of_completion():
    _, results = run(3, 3, turns={0: 30, 1: 20, 2: 10})
    assert results == [2, 1, 0]


def test_a_slow_request_holds_only_its_own_slot():
    server, results = run(10, 2, turns={0: 1000})
    assert results[-1] == 0
    assert server.most == 2


def test_the_first_requests_are_due_together_before_any_is_sent():
    server, _ = run(4, 3)
    assert server.due[0] == server.due[1] == server.due[2]
    assert server.due[0] <= server.began[0]
    assert server.due[3] > server.due[0]


def test_a_request_is_due_when_its_slot_becomes_free():
    server, _ = run(4, 1)
    for index in range(1, 4):
        assert server.ended[index - 1] <= server.due[index] <= server.began[index]


def test_a_slots_due_time_is_its_own_not_another_slots():
    server, _ = run(3, 2, turns={0: 500, 1: 1})
    assert server.ended[1] <= server.due[2] < server.ended[0]


def test_none_stops_the_sending_and_lets_the_rest_end():
    server, results = run(10, 2, turns={0: 50, 1: 1, 2: 1}, stop_at=2)
    assert server.order == [0, 1, 2]
    assert results == [1, 0]


def test_what_is_cancelled_sends_no_more():
    async def main():
        server = Server(turns={0: 100_000, 1: 100_000})
        task = asyncio.create_task(closed_loop([SimpleNamespace(id=index) for index in range(4)], 2, server))
        while server.in_flight < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)
        return server

    server = asyncio.run(main())
    assert server.order == [0, 1]
    assert not server.ended


def test_an_error_ends_the_other_slots_too():
    async def main():
        sent = []

        async def serve(request, due):
            sent.append(request.id)
            if request.id == 0:
                raise RuntimeError("a mistake of ours")
            await asyncio.sleep(0)
            return request.id

        with pytest.raises((RuntimeError, ExceptionGroup)):
            await closed_loop([SimpleNamespace(id=index) for index in range(50)], 2, serve)
        before = len(sent)
        await asyncio.sleep(0.02)
        return before, len(sent)

    before, after = asyncio.run(main())
    assert after == before < 50


def test_the_tail_of_varying_lengths_is_sent_until_the_last_measured_request_has_ended():
    server = Server(turns={2: 40})
    phases = ["ramp", "measured", "measured", *["tail"] * 30]
    batch = [SimpleNamespace(id=index, phase=phase) for index, phase in enumerate(phases)]
    asyncio.run(closed(batch, SimpleNamespace(concurrency=2), server))
    last = max(server.order)
    assert 8 < last < 20
    assert server.began[last - 1] < server.ended[2]
    assert set(server.ended) == set(server.order)
