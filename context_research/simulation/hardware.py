"""What engines compute on and what lies between them: devices and links that are shared in time."""

from __future__ import annotations

import asyncio
import functools
import weakref
from dataclasses import dataclass, field

from context_research.simulation.clock import quantized


@dataclass(slots=True, eq=False)
class _Job:
    left: float
    """Seconds of work, were it alone."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TimeShared:
    """A GPU, some CPU cores or a link. Of n jobs at once each goes on at an nth of its speed.

    So do a GPU's processes, which it serves in turn (time slices, without MPS). Two that are memory-bound would slow
    each other down less on hardware that ran both at once.
    """

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._since = 0.0
        """When the work left was last brought up to date."""
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, seconds: float) -> None:
        """Return when work that takes `seconds` alone is done."""
        if seconds <= 0:
            return
        self._advance()
        job = _Job(quantized(seconds))
        self._jobs.append(job)
        self._plan()
        try:
            await job.done
        finally:
            if job in self._jobs:  # cancelled: the others have more of the device again
                self._advance()
                self._jobs.remove(job)
                self._plan()

    def _advance(self) -> None:
        now = asyncio.get_running_loop().time()
        for job in self._jobs:
            job.left -= (now - self._since) / len(self._jobs)
        self._since = now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._jobs:
            shortest = quantized(max(0.0, min(job.left for job in self._jobs)) * len(self._jobs))
            self._timer = asyncio.get_running_loop().call_later(shortest, self._finish)

    def _finish(self) -> None:
        self._advance()
        for job in [job for job in self._jobs if job.left <= 0]:
            self._jobs.remove(job)
            if not job.done.done():
                job.done.set_result(None)
        self._plan()


@functools.cache
def client() -> asyncio.Lock:
    """This process's simulated client, which does one thing at a time."""
    return asyncio.Lock()


_devices: weakref.WeakValueDictionary[object, TimeShared] = weakref.WeakValueDictionary()


def shared(key: object) -> TimeShared:
    """The device or link of this process's simulated machine that `key` names, for as long as anyone holds it."""
    return _devices.setdefault(key, TimeShared())
