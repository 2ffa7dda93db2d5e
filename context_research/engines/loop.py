"""The session's one event loop, on a thread of its own: vLLM ties an engine to the loop that first used it.

Its clock is the one of every timeline: `time.monotonic()`, which on Linux is `time.perf_counter()` too; or virtual.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from context_research.engines.simulated.clock import VirtualTimeLoop

Result = TypeVar("Result")


class EventLoop:
    """Runs coroutines for the main thread, which stays free for signals and for showing progress."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.virtual = isinstance(loop, VirtualTimeLoop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="context-research-loop")
        self._thread.start()

    def time(self) -> float:
        """Seconds on the loop's clock."""
        return self._loop.time()

    def run(self, work: Coroutine[Any, Any, Result], while_waiting: Callable[[], None] = lambda: None) -> Result:
        """The coroutine's result, calling `while_waiting` twice a second. An interrupt cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                try:
                    return future.result(timeout=0.5)
                except NotYet:
                    if future.done():  # the work's own TimeoutError, or it ended just now
                        return future.result()
                    while_waiting()
        except BaseException:
            future.cancel()
            raise


def session_loop(virtual: bool = False) -> EventLoop:
    """This process's loop; the one of simulated engines, where time is `virtual`.

    It is never closed: its thread is a daemon, and engines end with their own `close`.
    """
    return _made(bool(virtual))


@functools.cache
def _made(virtual: bool) -> EventLoop:
    return EventLoop(VirtualTimeLoop() if virtual else asyncio.new_event_loop())
