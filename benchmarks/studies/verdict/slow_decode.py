"""A planted slowdown: vLLM's scheduler, slower in every step that only decodes. For trials of the verdict only.

Used as `--set engine.args.scheduler_cls=slow_decode.SlowDecode` with this folder on PYTHONPATH.
"""

from __future__ import annotations

import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler


class SlowDecode(AsyncScheduler):  # type: ignore[misc] # vLLM's class is untyped here
    """15 % slower: sleeps in the engine's own process, between steps, which a client can't tell from a slower model.

    Steps that hold a prefill are left alone, so that TTFT without a queue can't change.
    """

    share = 0.15
    """Of the step's own time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._updated = time.perf_counter()

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        taken = time.perf_counter() - self._updated
        scheduled = scheduler_output.num_scheduled_tokens.values()
        if scheduled and all(tokens == 1 for tokens in scheduled):
            time.sleep(self.share * taken)
        self._updated = time.perf_counter()
        return super().update_from_output(scheduler_output, model_runner_output)


class SlowerDecode(SlowDecode):
    """25 % slower."""

    share = 0.25
