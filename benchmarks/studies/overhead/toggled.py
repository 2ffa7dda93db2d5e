"""vLLM's schedulers, recording steps only while a file says so: both sides of recording.py in one engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from context_research.engines import step_records
from context_research.engines.vllm import step_recorder


def switch(steps: Path) -> Path:
    """The file that is there while the engine with this file of steps does not record."""
    return steps.with_suffix(".off")


class Toggled(step_recorder.Recording):
    """Looks at the file when a request comes, which costs both sides the same; change it while the engine is idle."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._off = False
        self._switch = switch(step_records.given())

    def add_request(self, request: Any) -> None:
        self._off = self._switch.exists()
        super().add_request(request)  # type: ignore[misc] # the scheduler's, which comes after this class

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        if self._off:
            return super(step_recorder.Recording, self).schedule(*args, **kwargs)  # type: ignore[misc]
        return super().schedule(*args, **kwargs)

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        # By the batch, not by the switch: the last empty step of a run may be done after the switch has changed.
        if id(scheduler_output) not in self._scheduled:
            scheduler: Any = super(step_recorder.Recording, self)
            return scheduler.update_from_output(scheduler_output, *args, **kwargs)
        return super().update_from_output(scheduler_output, *args, **kwargs)


class ToggledScheduler(Toggled, Scheduler):  # type: ignore[misc] # vLLM's is not typed for us
    """For engines that schedule synchronously."""


class ToggledAsyncScheduler(Toggled, AsyncScheduler):  # type: ignore[misc]
    """For engines with async scheduling."""
