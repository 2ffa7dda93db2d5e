"""Virtual time: an asyncio event loop whose clock jumps to the next timer once nothing is left to do."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable
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
        self._planned = itertools.count()
        self._last: list[_Last] = []
        self._reached = (0.0, 0)
        """The latest of `call_last` that came: its moment and rank."""
        super().__init__(_Jumping(self))
        self._clock_resolution = 1 / _GRID

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override] # typeshed ties args to the callback
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """asyncio's, but that of two timers for one moment the first planned comes first.

        In asyncio's heap it depends on what else is there: on cancelled timeouts of the case before, too.
        """
        timer = _Timer(quantized(when), callback, args, self, context)
        timer.number = next(self._planned)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined] # BaseEventLoop's own
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_last(self, when: float, rank: int, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Call at `when`, once all else at that moment is done; of several the lowest `rank` first, by itself.

        An end that has no timer, as it lies within a stride (time_sharing.py), then has its place among them too.
        """
        handle = _Last(when, callback, (), self)
        handle.rank = rank
        heapq.heappush(self._last, handle)
        return handle

    def has_passed(self, when: float, rank: int) -> bool:
        """Whether a call planned so would have come by now."""
        return when < self.now or (when, rank) <= self._reached

    def move(self, seconds: float) -> bool:
        """On to the next moment of `call_last` if it is less than `seconds` away. False: there is none."""
        while self._last and self._last[0].cancelled():
            heapq.heappop(self._last)
        if not self._last or self._last[0].when() >= self.now + seconds:
            return False
        handle = heapq.heappop(self._last)
        self.now = handle.when()
        self._reached = (self.now, handle.rank)
        self.call_soon(handle._run)
        return True


class _Last(asyncio.TimerHandle):
    __slots__ = ("rank",)
    rank: int

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Last):
            return NotImplemented
        return (self._when, self.rank) < (other._when, other.rank)  # type: ignore[attr-defined]


class _Timer(asyncio.TimerHandle):
    __slots__ = ("number",)
    number: int

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Timer):
            return NotImplemented
        return (self._when, self.number) < (other._when, other.number)  # type: ignore[attr-defined]


class _Jumping(selectors.DefaultSelector):
    """asyncio asks its selector to wait until the next timer is due."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop, self._unpolled = loop, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        # Asked to wait, it has nothing left to do at this moment.
        if timeout != 0 and self._loop.move(math.inf if timeout is None else timeout):
            timeout = 0
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
