"""When requests are sent. Closed loop: a fixed number in flight, the next is due when one ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from context_research.request import Request

Result = TypeVar("Result")


async def closed_loop(
    requests: Sequence[Request], concurrency: int, serve: Callable[[Request, float], Awaitable[Result | None]]
) -> list[Result]:
    """Serve `requests` in order, `concurrency` at a time; results in order of completion.

    `serve` gets each request with the time at which it was due: when its slot became free, in seconds of the event
    loop's clock. It returns None to stop: nothing more is sent then, what is in flight ends.
    """
    waiting, results, stopped = iter(requests), [], False
    clock = asyncio.get_running_loop().time

    async def slot(due: float) -> None:
        nonlocal stopped
        for request in waiting:
            if stopped:
                return
            result = await serve(request, due)
            due = clock()
            if result is None:
                stopped = True
                return
            results.append(result)

    start = clock()
    async with asyncio.TaskGroup() as slots:  # unlike gather(), an error in one slot ends the others
        for _ in range(concurrency):
            slots.create_task(slot(start))
    return results
