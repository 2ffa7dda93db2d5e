"""An event loop on a thread of its own, which engines, clients and checks of a run share.

Its clock is the one of every timeline: `time.monotonic()`, which on Linux is `time.perf_counter()` too; or virtual.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from context_research import signals

Result = TypeVar("Result")


class EventLoop:
    """Runs coroutines for the main thread, which stays free for signals and for showing progress.

    `virtual`: its clock is not the wall's. The thread, a daemon, ends once nobody holds this object.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, virtual: bool = False) -> None:
        self._loop, self.virtual = loop, virtual
        threading.Thread(target=_run, args=(loop,), daemon=True, name="context-research-loop").start()
        # Not at exit: what engines that died have left pending there is nobody's any more.
        weakref.finalize(self, loop.call_soon_threadsafe, loop.stop).atexit = False

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
                    signals.look()
                    while_waiting()
        except BaseException:
            future.cancel()
            raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


@functools.cache
def process_loop() -> EventLoop:
    """The one loop of this process's real engines: vLLM ties an engine to the loop that first used it, and an engine
    may be lent from one session to the next."""
    return EventLoop(asyncio.new_event_loop())
