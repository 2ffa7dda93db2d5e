"""What engines compute on and what lies between them: devices and links that are shared in time."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from context_research.engines.simulated.clock import VirtualTimeLoop, quantized


@dataclass(slots=True, eq=False)
class _Job:
    left: float
    """Seconds of work, were it alone."""
    contention: float
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TimeShared:
    """A GPU, a CPU machine or a link: beside n others a job goes on at 1 ÷ (1 + contention × n) of its speed.

    A contention of 1 is a GPU's: it serves its processes in turn (time slices, without MPS), each getting an nth.
    Engines on cores of their own still share caches, memory and perhaps the cores' other threads.
    """

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        """Of what ends on several at one moment the lowest comes first, after all else at that moment."""
        self._jobs: list[_Job] = []
        self._since = 0.0
        """When the work left was last brought up to date."""
        self._timer: asyncio.TimerHandle | None = None
        self._stride: Sequence[float] = ()
        """When each part of the only job will have ended, if it has parts and stays alone."""

    @property
    def idle(self) -> bool:
        return not self._jobs

    async def run(self, seconds: float, contention: float = 1.0) -> None:
        """Return when work that takes `seconds` alone is done."""
        if seconds <= 0:
            return
        self.cut()
        if self._stride:
            self._stride = [*self._stride[:-1], math.inf]  # slowed down, it ends later
        await self._run(quantized(seconds), contention)

    async def run_through(self, ends: Sequence[float], contention: float = 1.0) -> int:
        """Return when work is done whose parts end at these moments while it is alone on an idle device.

        It ends with the part in progress at `cut`, and once somebody else comes, who slows that part down. Returns how
        many parts were done.
        """
        self._stride = ends
        try:
            await self._run(ends[-1] - _loop().time(), contention)
            return len(self._stride)
        finally:
            self._stride = ()

    @property
    def parts(self) -> int:
        """How many parts there are of what runs through."""
        return len(self._stride)

    def ended(self) -> int:
        """How many of them have ended."""
        number = bisect_left(self._stride, _loop().time())
        return number + any(_loop().has_passed(end, self._rank) for end in self._stride[number : number + 1])

    def cut(self) -> None:
        """What runs through ends with the part in progress."""
        if self._stride and (ended := self.ended()) + 1 < len(self._stride):
            self._advance()
            self._jobs[0].left -= self._stride[-1] - self._stride[ended]
            self._stride = self._stride[: ended + 1]
            self._plan()

    async def _run(self, seconds: float, contention: float) -> None:
        self._advance()
        job = _Job(seconds, contention)
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
        now = _loop().time()
        for job in self._jobs:
            job.left -= (now - self._since) / self._slowdown(job)
        self._since = now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._jobs:
            shortest = quantized(max(0.0, min(job.left * self._slowdown(job) for job in self._jobs)))
            self._timer = _loop().call_last(_loop().time() + shortest, self._rank, self._finish)

    def _slowdown(self, job: _Job) -> float:
        return 1 + job.contention * (len(self._jobs) - 1)

    def _finish(self) -> None:
        self._advance()
        for job in [job for job in self._jobs if job.left <= 0]:
            self._jobs.remove(job)
            if not job.done.done():
                job.done.set_result(None)
        self._plan()


def _loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop
