"""The session's one event loop, on a thread of its own: vLLM ties an engine to the loop that first used it."""

from __future__ import annotations

import asyncio
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
                    if future.done():
                        raise
                    while_waiting()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop once what it still runs is cancelled. Safe to call twice."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.wait(others, timeout=5) if others else None
