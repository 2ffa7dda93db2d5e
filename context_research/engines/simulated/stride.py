"""Decode steps in one stride: what vLLM's scheduler would do in each of them, done to its state at once.

While no request arrives, ends or is preempted, a step gives one token to every running request, and a block to those
whose last one is full. Only the steps in which a block is given or filled are the scheduler's own here (its
`allocate_slots`, in its order). Anything out of the ordinary is left to ordinary steps. What is relied on are internals
of the versions of vLLM in `KNOWN`; others take every step by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import vllm
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import RequestStatus

from context_research.engines.batch import Batch
from context_research.engines.simulated.clock import quantized
from context_research.engines.simulated.step_time.base import StepTimeModel

_MOST = 64
"""Steps of a stride: whoever comes ends it, and those that were planned after that are priced in vain."""
KNOWN = ("0.32.0",)
"""Versions of vLLM whose scheduler this was compared with (tests/support/scheduler_parity.py)."""
_CONNECTOR = "NixlPullConnector"
"""Of all KV connectors its scheduler side is known to have nothing to do in a step that only decodes."""


def known(core: Any) -> bool:
    """Whether the core has nothing but what this module was compared with."""
    scheduler = core.scheduler
    managers = scheduler.kv_cache_manager.coordinator.single_type_managers
    unused = (
        *(scheduler.lora_config, scheduler.vllm_config.speculative_config, scheduler.ec_connector),
        *(scheduler.aux_output_connector, scheduler.kv_metrics_collector, scheduler.perf_metrics),
        *(scheduler.finished_req_ids_dict, scheduler.is_encoder_decoder, scheduler.is_mm_encoder_only),
        *(scheduler.enable_kv_cache_events, scheduler.use_pp, scheduler.has_mamba_layers),
        *(scheduler.return_sampling_mask, scheduler.num_lookahead_tokens, scheduler.prefix_replay_tokens),
        scheduler.observability_config.enable_logging_iteration_details,
    )
    return (
        vllm.__version__ in KNOWN
        and type(scheduler) is (Scheduler if core.batch_queue is None else AsyncScheduler)
        and core.batch_queue_size == 1 + (core.batch_queue is not None)
        and not any(unused)
        and (scheduler.connector is None or type(scheduler.connector).__name__ == _CONNECTOR)
        and scheduler.num_sampled_tokens_per_step == 1
        and scheduler.policy == SchedulingPolicy.FCFS
        and [type(manager) for manager in managers] == [FullAttentionManager]
        and managers[0].block_size == scheduler.hash_block_size
    )


@dataclass(slots=True, eq=False)
class Stride:
    """Steps that only decode, while they are on the device: of `requests`, and when each ends if nobody comes."""

    requests: list[str]
    ends: list[float] = field(default_factory=list)
    extrapolated: list[bool] = field(default_factory=list)
    usage: list[float] = field(default_factory=list)
    """The pool's share in use, in each step that has begun: which vLLM's scheduler has taken."""
    told: int = 0
    """Steps whose tokens the requests have got."""


@dataclass(frozen=True, slots=True)
class Decodes:
    """So many steps of these requests can be taken at once; the first batch on the device is `batch`."""

    steps: int
    batch: Batch
    requests: list[str]

    def batch_of(self, step: int) -> Batch:
        """The batch of the step after `step` others."""
        return later(self.batch, step)


def later(batch: Batch, steps: int) -> Batch:
    """Decodes so many steps later."""
    requests, kv = batch.decode_requests, batch.decode_kv_tokens
    return Batch(decode_requests=requests, decode_kv_tokens=kv + requests * steps)


class Strides:
    """Takes decode steps on the state of one EngineCore and of its SimulatedExecutor."""

    def __init__(self, core: Any, executor: Any) -> None:
        self._core, self._executor = core, executor
        self._scheduler = core.scheduler
        self._blocks = core.scheduler.kv_cache_manager
        (self._manager,) = self._blocks.coordinator.single_type_managers
        self._asynchronous = core.batch_queue is not None
        self._placeholders = int(self._asynchronous)
        """Tokens of a request that are being computed while the next step is scheduled."""

    def ahead(self) -> Decodes | None:
        """The steps that follow, if they only decode, one request or more; None: the next step is an ordinary one."""
        scheduler, running = self._scheduler, self._scheduler.running
        if not running or not self._nothing_else() or not all(map(self._decodes, running)):
            return None
        ids = [request.request_id for request in running]
        if (batch := self._first(ids)) is None:
            return None
        # In its last step a request ends, and with asynchronous scheduling is left out of the batch made meanwhile.
        left = min(
            min(request.max_tokens - request.num_output_tokens, scheduler.max_model_len - request.num_tokens)
            for request in running
        )
        steps = self._fitting(left - 1)
        return Decodes(steps, batch, ids) if steps > 0 else None

    def planned(self, step_times: StepTimeModel, now: float) -> Stride | None:
        """The steps that follow, priced, if they begin now."""
        if (decodes := self.ahead()) is None:
            return None
        stride = Stride(decodes.requests)
        for step in range(min(decodes.steps, _MOST)):
            try:
                taken = step_times.of(decodes.batch_of(step))
            except Exception:  # the step's own to raise, if it comes to that
                break
            if taken.seconds <= 0:
                break
            now += quantized(taken.seconds)
            stride.ends.append(now)
            stride.extrapolated.append(taken.extrapolated)
        return stride if stride.ends else None

    def _nothing_else(self) -> bool:
        """Whether the next step has nobody but those running to think of, and nothing to tell to anybody."""
        scheduler = self._scheduler
        if scheduler.finished_req_ids or scheduler.reset_preempted_req_ids or scheduler.deferred_frees:
            return False
        if self._executor.sent or self._executor.received or scheduler.pause_state != PauseState.UNPAUSED:
            return False
        requests = len(scheduler.running)
        if requests > min(scheduler.max_num_scheduled_tokens, scheduler.scheduler_config.max_num_batched_tokens):
            return False
        if requests + scheduler.num_waiting_for_streaming_input >= scheduler.max_num_active_reqs:
            return True  # nobody is let in
        # KV that is being read is waited for. Whatever else waits may be let in by any step.
        return not scheduler.waiting and all(
            request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
            and request.request_id not in scheduler.finished_recving_kv_req_ids
            and request in scheduler.deferred_waiting
            for request in scheduler.kv_holding_waiting
        )

    def _decodes(self, request: Any) -> bool:
        """Whether the request gets one token in every step until it has its last."""
        sampling, tokens = request.sampling_params, request.num_tokens
        return (
            request.num_computed_tokens == tokens - 1 + self._placeholders
            and request.num_output_placeholders == self._placeholders
            and request.num_in_flight_tokens == self._placeholders
            and request.prefill_stats is None  # its first token was told
            and not request.events
            and not request.spec_token_ids
            and not request.num_stale_output_tokens
            and request.next_decode_eligible_step <= self._scheduler.current_step + 1
            and self._plain(request)
            and sampling.eos_token_id != 0
            and 0 not in (sampling.stop_token_ids or ())
            and sampling.repetition_detection is None
            and (not self._manager.enable_caching or self._cached(request) == (tokens - 1) // self._manager.block_size)
        )

    @staticmethod
    def _plain(request: Any) -> bool:
        return (
            request.structured_output_request is None
            and request.lora_request is None
            and request.pooling_params is None
            and not request.mm_features
            and not request.resumable
            and request.sampling_params is not None
        )

    def _cached(self, request: Any) -> int:
        return int(self._manager.num_cached_block.get(request.request_id, 0))

    def _first(self, requests: list[str]) -> Batch | None:
        """The batch that is on the device in the next step, if it has those who run, each with one token."""
        if not self._asynchronous:
            kv = sum(request.num_computed_tokens for request in self._scheduler.running)
            return Batch(decode_requests=len(requests), decode_kv_tokens=kv)
        queue, batches = self._core.batch_queue, self._executor.batches
        if len(queue) != 1 or len(batches) != 1:
            return None
        (_, scheduled, _), (batch, tells) = queue[0], batches[0]
        if tells or batch.prefill_requests or list(scheduled.num_scheduled_tokens) != requests:
            return None
        return later(batch, 0)

    def _fitting(self, steps: int) -> int:
        """Of so many steps those for which the pool has the blocks: without one somebody is preempted."""
        free, size = self._blocks.block_pool.get_num_free_blocks(), self._manager.block_size
        first = [self._until_full(request) for request in self._scheduler.running]

        def needed(taken: int) -> int:
            return sum((taken - full - 1) // size + 1 for full in first if full < taken)

        if steps <= 0 or needed(steps) <= free:
            return steps
        return bisect_right(range(1, steps), free, key=needed)

    def _until_full(self, request: Any) -> int:
        """Steps of a request before the one that needs a new block."""
        held = len(self._manager.req_to_blocks[request.request_id])
        return int(held * self._manager.block_size - request.num_computed_tokens)

    def take(self, steps: int) -> list[float]:
        """Take the next steps, no more than there are ahead. Returns the pool's share in use, in each of them."""
        running, size = self._scheduler.running, self._manager.block_size
        began = [request.num_output_tokens for request in running]
        usage, usages = self._blocks.usage, list[float]()
        for step, index in sorted(
            (step, index)
            for index, request in enumerate(running)
            for step in {
                *range(self._until_full(request), steps, size),
                *range(-(request.num_tokens) % size, steps, size),
            }
        ):
            request = running[index]
            usages.extend([usage] * (step - len(usages)))
            self._grow(request, step - (request.num_output_tokens - began[index]))
            if self._blocks.allocate_slots(request, 1) is None:
                raise RuntimeError("a stride of steps ran out of KV blocks")
            usage = self._blocks.usage
        usages.extend([usage] * (steps - len(usages)))
        self._blocks.take_new_block_ids()
        for request, before in zip(running, began, strict=True):
            self._grow(request, steps - (request.num_output_tokens - before))
        self._count(steps)
        return usages

    @staticmethod
    def _grow(request: Any, tokens: int) -> None:
        if tokens:
            request.num_computed_tokens += tokens
            request.append_output_token_ids([0] * tokens)

    def _count(self, steps: int) -> None:
        """What a scheduler counts of its steps, and who was in the last."""
        scheduler, running = self._scheduler, self._scheduler.running
        scheduler.current_step += steps
        scheduler.prefill_capacity_bound = sum(scheduler.get_request_counts()[1:]) > len(scheduler.deferred_waiting)
        if not scheduler.use_v2_model_runner:
            scheduler.prev_step_scheduled_req_ids = {request.request_id for request in running}
        if scheduler.defer_block_free:
            scheduler.sched_step_seq += steps
            scheduler.processed_step_seq += steps
            for request in running:
                request.last_sched_seq = scheduler.sched_step_seq
        if not self._asynchronous:
            return
        if scheduler.use_v2_model_runner:
            for request in running:
                request.next_decode_eligible_step = scheduler.current_step + scheduler.decode_stagger
        # The output that waits in the core's queue is as good as the last step's: a token for each.
        batch, tells = self._executor.batches.popleft()
        self._executor.batches.append((later(batch, steps), tells))
