"""The session's one event loop, on a thread of its own: vLLM ties an engine to the loop that first used it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

Result = TypeVar("Result")


class EventLoop:
    """Runs coroutines for the main thread, which stays free for signals and for showing progress."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="context-research-loop")
        self._thread.start()

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


@functools.cache
def session_loop() -> EventLoop:
    """This process's loop. It is never closed: its thread is a daemon, and engines end with their own `close`."""
    return EventLoop()
