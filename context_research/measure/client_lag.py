"""Whether the client kept up: how late it sent requests, how late its event loop came round."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import numpy as np

from context_research.request import Timeline

TICK_S = 0.01
_HICCUPS = 3


@dataclass(frozen=True, slots=True)
class Lag:
    """99th percentiles in seconds: of sent − scheduled over requests, of the event loop's lateness over time.

    With fewer than 300 ticks the fourth-largest lateness is used instead of the p99, so that single stalls of the
    machine do not count.
    """

    send_p99: float
    loop_p99: float
    loop_max: float


@asynccontextmanager
async def watched(lateness: list[float]) -> AsyncIterator[None]:
    """While open, add to `lateness` how late each tick of `TICK_S` was.

    A loop that was blocked for 200 ms missed 20 ticks, and each of them counts: the percentiles are over time.
    """

    async def watch() -> None:
        due = time.perf_counter()
        while True:
            due += TICK_S
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            lateness.append(max(0.0, time.perf_counter() - due))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


@contextmanager
def frozen_heap() -> Iterator[None]:
    """While open, the garbage collector passes over all that exists already, as in vLLM's server and its benchmark.

    A full collection holds the interpreter while it walks everything that vLLM and torch imported: half a second.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def of(timelines: Iterable[Timeline], lateness: Sequence[float]) -> Lag:
    """The lags of what was sent, and of the loop meanwhile."""
    sends = [timeline.sent - timeline.scheduled for timeline in timelines]
    by_lateness = sorted(lateness, reverse=True) or [0.0]
    passed_over = max(_HICCUPS, len(by_lateness) // 100)
    return Lag(
        send_p99=float(np.percentile(sends, 99)) if sends else 0.0,
        loop_p99=by_lateness[min(passed_over, len(by_lateness) - 1)],
        loop_max=by_lateness[0],
    )
