"""Virtual time: an asyncio event loop whose clock jumps to the next timer once nothing is left to do."""

from __future__ import annotations

import asyncio
import math
import selectors
from typing import Any

_GRID = 1 << 30
"""Moments are whole multiples of 2⁻³⁰ s, 0.93 ns. A float64 holds such numbers exactly for 97 days, so that the same
durations come out to the last bit whenever a case begins: a run and its xdist twin write the same figures."""
_POLL_EVERY = 64
"""Rounds of the loop for one system call: it would be a tenth of a simulation's time."""


def quantized(seconds: float) -> float:
    """`seconds` rounded up to the clock's grid."""
    return math.ceil(seconds * _GRID) / _GRID


async def sleep(seconds: float) -> None:
    """asyncio.sleep for a duration that is on the clock's grid."""
    await asyncio.sleep(quantized(seconds))


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for a timer: `time()` moves to it instead. It starts at 0.

    With no timer left it waits in real time, for another thread's `call_soon_threadsafe`.
    """

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):
    """asyncio asks its selector to wait until the next timer is due."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop, self._unpolled = loop, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        if timeout is None:
            return super().select(None)
        # Another thread's calls are in the loop's queue without a poll; it only empties the pipe that wakes the loop.
        self._unpolled += 1
        if self._unpolled == _POLL_EVERY:
            self._unpolled = 0
            if ready := super().select(0):
                return ready
        if timeout > 0:
            self._loop.now = quantized(self._loop.now + timeout)
        return []
