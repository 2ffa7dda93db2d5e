"""When requests are sent: `workload.arrivals` names the process.

Closed loop: a fixed number in flight. Open and replayed: at their moments (load.py draws them), whatever is in flight.
Another one is a function like `closed`, added by the hook `pytest_context_research_arrivals`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from context_research.errors import UsageProblem
from context_research.request import Request
from context_research.workload.case import Case

Result = TypeVar("Result")
Serve = Callable[[Request, float], Awaitable[Result | None]]
"""Serves a request that was due at a time of the event loop's clock; None: send nothing more."""
ArrivalProcess = Callable[[Sequence[Request], Case, Serve[Any]], Awaitable[object]]
"""Serves a case's requests, in their order. It draws from `case.seed("arrivals")`, before the first request is due."""


async def closed_loop(requests: Sequence[Request], concurrency: int, serve: Serve[Result]) -> list[Result]:
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


async def closed(requests: Sequence[Request], case: Case, serve: Serve[Any]) -> None:
    """`closed_loop` with the case's concurrency; the warm-up of another load: one at a time.

    A tail is sent until the last measured request has ended.
    """
    measured = sum(request.phase == "measured" for request in requests)

    async def one(request: Request, due: float) -> Any:
        nonlocal measured
        if request.phase == "tail" and not measured:
            return None
        result = await serve(request, due)
        measured -= request.phase == "measured"
        return result

    await closed_loop(requests, case.concurrency or 1, one)


async def timed(requests: Sequence[Request], case: Case, serve: Serve[Any]) -> None:
    """Send each request when it is due, counted from now, whatever is in flight; those without a moment one by one.

    What is due after the measured window is sent until the last measured request has ended.
    """
    if any(request.due is None for request in requests):  # a warm-up
        await closed(requests, case, serve)
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    left = sum(request.phase == "measured" for request in requests)

    async def one(request: Request, due: float) -> None:
        nonlocal left
        result = await serve(request, due)
        left -= request.phase == "measured"
        if result is None or (request.phase == "measured" and not left):
            over.set()

    start = loop.time()
    async with asyncio.TaskGroup() as sent:
        for request in requests:
            due = start + (request.due or 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await over.wait()
            if over.is_set():
                break
            sent.create_task(one(request, due))


BUILT_IN: Mapping[str, ArrivalProcess] = {"closed": closed, "open": timed, "replay": timed}


def extended(added: Iterable[Mapping[str, ArrivalProcess]]) -> dict[str, ArrivalProcess]:
    """The built-in processes and those that plugins add, by name. Raises UsageProblem: a name that is taken."""
    every = dict(BUILT_IN)
    for some in added:
        if taken := sorted(set(every) & set(some)):
            raise UsageProblem(f"arrivals {taken[0]!r}: there is an arrival process of this name already")
        every |= some
    return every
