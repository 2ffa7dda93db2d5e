"""vLLM's schedulers, recording each step: what it computed, and how long it took (engines/step_records.py).

The classes run in the EngineCore's process and are named in the engine's configuration. They change nothing that vLLM
does: two clock readings a step, and a line of text when its output has been processed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from context_research.engines import step_records
from context_research.engines.batch import Batch


class Recording:
    """Mixin before one of vLLM's scheduler classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps, self._step_clock = step_records.Writer(step_records.given()), step_records.Clock()
        self._scheduled: dict[int, float] = {}
        """When each batch that is not done yet was scheduled, by the id of its SchedulerOutput, which vLLM holds."""

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc] # the scheduler's, which comes after this class
        self._scheduled[id(output)] = began
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        made = super().update_from_output(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        self._record(scheduler_output, time.perf_counter())
        return made

    def shutdown(self) -> None:
        self._steps.flush()
        super().shutdown()  # type: ignore[misc]

    def _record(self, output: Any, done: float) -> None:
        began, busy = self._scheduled.pop(id(output), None), self.has_unfinished_requests()  # type: ignore[attr-defined]
        if began is None:
            return  # not scheduled here, in a way of some other vLLM version: nothing is known of it
        if output.total_num_scheduled_tokens:
            self._steps.add(done, self._step_clock.seconds(began, done), Batch.of(_scheduled(output)))
        elif not busy:
            # vLLM runs an empty step after the last request: its tokens are on their way, nobody waits for the file.
            self._steps.flush()
        if not busy or not output.total_num_scheduled_tokens:
            self._step_clock.idle()


def _scheduled(output: Any) -> Iterator[tuple[int, int]]:
    """(tokens in this step, computed before) of each request.

    As the scheduler told the workers: the requests' own counts have been advanced by then, with async scheduling twice.
    """
    tokens, cached = output.num_scheduled_tokens, output.scheduled_cached_reqs
    for new in output.scheduled_new_reqs:
        yield tokens[new.req_id], new.num_computed_tokens
    for request, before in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
        yield tokens[request], before


class RecordedScheduler(Recording, Scheduler):  # type: ignore[misc] # vLLM's class is untyped here
    """vLLM's scheduler, recorded."""


class RecordedAsyncScheduler(Recording, AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler for async scheduling, recorded."""
