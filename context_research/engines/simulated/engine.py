"""A simulated engine: vLLM's own EngineCore (scheduler, KV cache manager, connector) in virtual time, without a model.

Real are the batches: chunked prefill, prefix caching, preemption, block limits, the handoff's bookkeeping. Modelled are
how long a step takes (step_time/), how long a KV read takes, and the way between client and engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_research.engines.base import ENGINE_EVIDENCE, Counters, Evidence, FirstLeg, KvParameters
from context_research.engines.simulated import clock, profiles
from context_research.engines.simulated.machine import SimulatedMachine
from context_research.engines.simulated.step_time import model_of
from context_research.engines.vllm import handoff as handoffs
from context_research.engines.vllm import logs, stats
from context_research.engines.vllm.engine import VllmEngine, described, placed, sampling
from context_research.engines.vllm.environment import changed
from context_research.errors import EngineFailure, UsageProblem
from context_research.hardware.placement import Placement
from context_research.hardware.processes import Process
from context_research.models.capacity import block_tokens, pool_bytes
from context_research.models.model import Model
from context_research.request import Leg, Request
from context_research.settings.schema import Settings

if TYPE_CHECKING:
    from context_research.engines.simulated.stride import Stride, Strides

_POLL_S = 1e-3
"""EngineCore's pause after a step that computed nothing while it has requests (vllm/v1/engine/core.py)."""


@dataclass(slots=True, eq=False)
class _Flight:
    """One leg on its way through the engine."""

    leg: Leg
    ended: asyncio.Future[None]


class SimulatedEngine:
    """Implements `base.Engine`. `serve` runs on its machine's virtual loop."""

    def __init__(
        self, settings: Settings, model: Model, placement: Placement, log: Path, machine: SimulatedMachine
    ) -> None:
        self.name: str = placement.spec.name
        self.role: str = placement.spec.role
        self.counters = Counters()
        self.strides = True
        """Whether steps that only decode may be taken many at once. What comes out is the same."""
        self.capabilities = ENGINE_EVIDENCE - {Evidence.LOG, Evidence.OUTPUTS, Evidence.ALTERNATIVES}
        self.log = log
        self._settings, self._model, self._placement = settings, model, placement
        self._machine, self._profile = machine, machine.profile
        self._step_times = model_of(self._profile, model, placement)
        self._device = machine.device(placement)
        known = self._step_times.contention
        apart = self._profile.device == "cpu" and len(settings.serving.engines) <= self._profile.count
        self._contention = known if known is not None else 0.0 if apart else 1.0
        self._link = machine.link(placement)
        self._connector = _connector(settings, self.role)
        self._real = VllmEngine(settings, model, placement, log, self._connector)
        """Never started: the simulated engine is configured as this one would be."""
        self._core: Any = None
        self._config: Any = None
        self._executor: Any = None
        self._strides: Strides | None = None
        self._stride: Stride | None = None
        self._start_s = 0.0
        self._count = stats.logger_class(self.counters, machine.loop.time)(None)
        self._flights: dict[str, _Flight] = {}
        self._arrived: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._news, self._between_steps = asyncio.Event(), asyncio.Event()
        self._between_steps.set()
        self._driver: asyncio.Task[None] | None = None
        self._died: str | None = None
        """Why no step will follow; `close` and `start` make the engine whole."""

    def start(self) -> None:
        began, self._died = time.perf_counter(), None
        self._between_steps.set()
        environment: dict[str, str | None] = {
            "VLLM_CPU_KVCACHE_SPACE": None,
            "VLLM_LOGGING_COLOR": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        with logs.to_file(self.log), changed(environment | (self._connector[1] if self._connector else {})):
            try:
                self._start()
            except Exception as error:
                if isinstance(error, UsageProblem):
                    raise
                raise EngineFailure(
                    f"simulated engine {self.name!r} could not start: {logs.reason(error, self.log)}"
                ) from None
        self._start_s = time.perf_counter() - began

    def _start(self) -> None:
        from vllm import envs
        from vllm.v1.engine.core import EngineCore

        from context_research.engines.simulated.executor import SimulatedExecutor
        from context_research.engines.simulated.stride import Strides, known

        self._config = self._real.resolve()
        if self._settings.device == "cuda" and self._settings.engine.args.get("async_scheduling") is not False:
            # vLLM's default on a GPU, which its CPU build turns off.
            self._config.scheduler_config.async_scheduling = True

        def executor(config: Any) -> Any:
            # vLLM's KV arithmetic is one rank's.
            ranks = len(self._placement.devices) if self._settings.device == "cuda" else 1
            pool = pool_bytes(self._settings, self._model, self._placement) // ranks
            self._executor = SimulatedExecutor(config, pool_bytes=pool, read=self._begin_read)
            return self._executor

        self._core = EngineCore(self._config, executor, log_stats=True)
        self._strides = Strides(self._core, self._executor) if known(self._core) else None
        envs.disable_envs_cache()  # real engines of this process are started with other variables
        if self._config.kv_transfer_config is not None:
            self._machine.engines[self._config.kv_transfer_config.engine_id] = self

    def close(self) -> None:
        core, self._core = self._core, None
        if core is None:
            return
        self._machine.loop.run(self._stop())
        with logs.to_file(self.log), contextlib.suppress(Exception):
            core.shutdown()

    async def _stop(self) -> None:
        for task in filter(None, (self._driver, *self._tasks)):
            task.cancel()
        self._driver = None

    processes: tuple[Process, ...] = ()

    @property
    def dead(self) -> bool:
        return self._core is None

    def prepare(self, legs: Sequence[FirstLeg]) -> None:
        """Nothing: building takes no virtual time."""

    async def serve(
        self,
        request: Request,
        leg: Leg,
        *,
        output_tokens: int,
        handoff: KvParameters | None,
        alternatives: int | None = None,
    ) -> None:
        if alternatives is not None:
            raise NotImplementedError("a simulated engine has no probabilities")
        from vllm.v1.request import Request as CoreRequest

        made = CoreRequest(
            request.id,
            list(request.prompt),
            sampling(request, output_tokens, handoff),
            None,
            arrival_time=0.0,
            block_hasher=self._core.request_block_hasher,
        )
        loop, client = asyncio.get_running_loop(), self._profile.client
        leg.sent = loop.time()
        # The client is one thread: requests that are due together reach the engine one after another.
        async with self._machine.client:
            await clock.sleep(client.to_engine_s(len(request.prompt)))
        if self._died is not None:
            raise EngineFailure(self._died)
        flight = self._flights[request.id] = _Flight(leg, loop.create_future())
        self._arrived.append(made)
        self._wake()
        try:
            await flight.ended
        except asyncio.CancelledError:
            self._interrupt()
            self._core.abort_requests([request.id])
            raise
        finally:
            del self._flights[request.id]
        await clock.sleep(client.deliver_s)

    def _wake(self) -> None:
        self._news.set()
        self._interrupt()
        if self._driver is None:
            self._driver = asyncio.create_task(self._drive(), name=f"{self.name}-engine")

    async def _drive(self) -> None:
        """EngineCore's busy loop (`EngineCoreProc.run_busy_loop`), each step taking its time on the device."""
        try:
            while True:
                self._take_in()
                if stride := self._ahead():
                    await self._take(stride)
                elif self._core.scheduler.has_requests() or self._core.batch_queue:
                    await self._step()
                else:
                    await self._something_new()
        except Exception as error:
            self._died = f"simulated engine {self.name!r} died: {type(error).__name__}: {error}"
            for flight in self._flights.values():
                if not flight.ended.done():
                    flight.ended.set_exception(EngineFailure(self._died))

    def _take_in(self) -> None:
        """A request that arrives during a step is taken in after it, as the real engine does."""
        now = asyncio.get_running_loop().time()
        for request in self._arrived:
            if flight := self._flights.get(request.request_id):
                flight.leg.queued = now
                self._core.add_request(request)
        self._arrived.clear()

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        outputs, computed = self._core.step_fn()
        for request in self._executor.scheduled:
            if flight := self._flights.get(request):
                flight.leg.started = loop.time()
        self._executor.scheduled.clear()
        if outputs is None:  # asynchronous scheduling: the next batch is made while this one runs
            return
        batch, told = self._executor.batches.popleft()
        if batch.requests:
            taken = self._step_times.of(batch)
            self.counters.steps += 1
            self.counters.extrapolated += taken.extrapolated
            self._between_steps.clear()
            await self._device.run(taken.seconds, self._contention)
            self._between_steps.set()
        for some in outputs.values():
            self._deliver(some, loop.time())
        # Asynchronous scheduling may have another empty batch in its queue.
        waiting = self._executor.batches
        # What just ended may have made room for a request that waits.
        idle = not computed and not batch.requests and not any(each.requests for each, _ in waiting)
        if idle and self._core.scheduler.has_requests():
            told |= any(tells for _, tells in waiting)
            await (clock.sleep(_POLL_S) if told else self._something_new())

    def _ahead(self) -> Stride | None:
        """The next steps, where they only decode and the device is free."""
        if not self.strides or self._strides is None or not self._device.idle:
            return None
        return self._strides.planned(self._step_times, asyncio.get_running_loop().time())

    async def _take(self, stride: Stride) -> None:
        """As many `_step`s as the stride has, or as end with the one in which somebody comes."""
        self._stride = stride
        self._between_steps.clear()
        try:
            steps = await self._device.run_through(stride.ends, self._contention)
            stride.ends[steps - 1] = asyncio.get_running_loop().time()  # later than planned if somebody came
            self._bring(stride, steps, steps)
        finally:
            self._stride = None
        self._between_steps.set()

    def _interrupt(self) -> None:
        """End a stride with the step in progress, and be as if each step had been taken by itself."""
        if self._stride is not None:
            self._device.cut()
            self._bring(self._stride, self._device.parts, self._device.ended())

    def _bring(self, stride: Stride, begun: int, ended: int) -> None:
        """Take the steps that have begun, hand out the tokens of those that have ended."""
        if fresh := begun - len(stride.usage):
            self.counters.steps += fresh
            self.counters.extrapolated += sum(stride.extrapolated[len(stride.usage) : begun])
            assert self._strides is not None
            stride.usage += self._strides.take(fresh)
        for at, share in zip(stride.ends[stride.told : ended], stride.usage[stride.told : ended], strict=True):
            self.counters.use_kv(at, share)
        if tokens := ended - stride.told:
            self.counters.generated += tokens * len(stride.requests)
            times = [at + clock.quantized(self._profile.client.deliver_s) for at in stride.ends[stride.told : ended]]
            for flight in filter(None, map(self._flights.get, stride.requests)):
                flight.leg.token_ids.extend([0] * tokens)
                flight.leg.token_times.extend(times)
            stride.told = ended

    async def _something_new(self) -> None:
        """Until a request has arrived or a KV read has ended; a real engine polls."""
        await self._news.wait()
        self._news.clear()

    def _deliver(self, outputs: Any, now: float) -> None:
        from vllm.v1.metrics.stats import IterationStats

        iteration = IterationStats()
        for output in outputs.outputs:
            iteration.num_generation_tokens += len(output.new_token_ids)
            iteration.num_preempted_reqs += sum(event.type.name == "PREEMPTED" for event in output.events or ())
            if output.prefill_stats is not None:
                iteration.prompt_token_stats.update_from_output(output.prefill_stats)
            if flight := self._flights.get(output.request_id):
                self._fill(flight, output, now)
        self._count.record(outputs.scheduler_stats, iteration)

    def _fill(self, flight: _Flight, output: Any, now: float) -> None:
        leg, tokens = flight.leg, output.new_token_ids
        if output.prefill_stats is not None:
            leg.cached_tokens = output.prefill_stats.num_cached_tokens
        if tokens:
            leg.first_token = leg.first_token or now
            leg.token_ids.extend(tokens)
            leg.token_times.extend((now + clock.quantized(self._profile.client.deliver_s),) * len(tokens))
        if output.finish_reason is not None:
            leg.finish_reason, leg.handoff = str(output.finish_reason), output.kv_transfer_params
            if not flight.ended.done():
                flight.ended.set_result(None)

    def _begin_read(self, request: str, read: Any) -> None:
        """NIXL's worker posts a read when its batch starts; with nothing to read it only tells the other engine."""
        task = asyncio.create_task(self._read(request, read), name=f"{self.name}-read-{request}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, request: str, read: Any) -> None:
        loop, link = asyncio.get_running_loop(), self._profile.link
        blocks = sum(map(len, read.local_block_ids))
        block = block_tokens(self._settings)
        size = blocks * block * self._model.kv_bytes_per_token
        descriptors = profiles.descriptors(self._model, blocks * block, block)
        source = self._machine.engines.get(read.remote.engine_id)
        same = source is not None and source._placement.devices == self._placement.devices
        began = loop.time()
        # Reads at the same time share the link, and wait for their answers side by side.
        if link.between_steps and source is not None:
            source._interrupt()
            await source._between_steps.wait()
        await clock.sleep(link.latency_s)
        await self._link.run(link.seconds(size, descriptors, same_device=same) - link.latency_s)
        if read.awaiting_kvs:
            self._executor.received[request] = None
            self.counters.transfers.append((loop.time() - began, size))
            self.counters.reads.append((request, began, loop.time()))
        self._wake()
        if source is not None:
            source._executor.sent[read.remote.request_id] = None
            source._wake()

    async def reset_prefix_cache(self) -> bool:
        self._interrupt()
        return bool(self._core.reset_prefix_cache())

    def describe(self) -> dict[str, object]:
        return placed(self._settings, self._model, self._placement) | {
            "start_s": round(self._start_s, 2),
            "pids": [],
            "environment": {},
            "vllm_config": described(self._config),
            "simulated": {
                "device_profile": self._profile.name,
                "digest": self._profile.digest,
                "calibrated": self._profile.calibrated,
                "step_times": self._step_times.describe(),
                "link": self._profile.link.model_dump(),
                "client": self._profile.client.model_dump(),
                "errors": self._profile.errors,
            },
        }


def _connector(settings: Settings, role: str) -> handoffs.Connector | None:
    """vLLM's own connector class: ours only watches its workers, and there are none."""
    if settings.serving.handoff is None:
        return None
    arguments, environment = handoffs.connector(settings.serving.handoff, role, settings.device)
    del arguments["kv_connector_module_path"]
    return arguments, environment
