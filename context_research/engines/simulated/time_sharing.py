"""What engines compute on and what lies between them: devices and links that are shared in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from context_research.engines.simulated.clock import quantized


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

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._since = 0.0
        """When the work left was last brought up to date."""
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, seconds: float, contention: float = 1.0) -> None:
        """Return when work that takes `seconds` alone is done."""
        if seconds <= 0:
            return
        self._advance()
        job = _Job(quantized(seconds), contention)
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
            job.left -= (now - self._since) / self._slowdown(job)
        self._since = now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._jobs:
            shortest = quantized(max(0.0, min(job.left * self._slowdown(job) for job in self._jobs)))
            self._timer = asyncio.get_running_loop().call_later(shortest, self._finish)

    def _slowdown(self, job: _Job) -> float:
        return 1 + job.contention * (len(self._jobs) - 1)

    def _finish(self) -> None:
        self._advance()
        for job in [job for job in self._jobs if job.left <= 0]:
            self._jobs.remove(job)
            if not job.done.done():
                job.done.set_result(None)
        self._plan()
