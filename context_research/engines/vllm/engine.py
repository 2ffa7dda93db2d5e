"""A real vLLM engine: AsyncLLM in this process, its EngineCore in a child, on a CPU or CUDA device."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from context_research import signals
from context_research.engines import step_records
from context_research.engines.base import ENGINE_EVIDENCE, MOST_ALTERNATIVES, Counters, FirstLeg, KvParameters
from context_research.engines.vllm import logs, seeded_weights, stats
from context_research.engines.vllm.environment import changed
from context_research.engines.vllm.handoff import Connector
from context_research.engines.vllm.process_lifetime import dies_with_parent
from context_research.errors import EngineFailure, UsageProblem
from context_research.hardware.devices import visible_gpus
from context_research.hardware.placement import Placement
from context_research.hardware.processes import Process
from context_research.models.capacity import block_tokens, pool_bytes
from context_research.models.model import Model
from context_research.request import Leg, Request
from context_research.settings.schema import Settings

_LOAD_FORMATS = {"hub": "auto", "seeded": "seeded", "dummy": "dummy"}
_SHUTDOWN_S = 10.0
_PLAIN = (bool, int, float, str, type(None))
_NESTED = (dict, list, tuple, set)
_OWNED = {"tensor_parallel_size", "kv_transfer_config", "kv_cache_memory_bytes", "kv_cache_dtype"}
"""vLLM arguments that engine.args may not set, though not every run sets them: placement and arithmetic need them."""
_RECORDED = {True: "RecordedAsyncScheduler", False: "RecordedScheduler"}
"""Classes of engines/vllm/step_recorder.py, by vLLM's async_scheduling."""
_DESCRIBED = ("model", "cache", "parallel", "scheduler", "device", "load", "compilation", "kv_transfer")

_LISTED = 1 << 22
"""Prompt tokens of a batch up to which vLLM's lists of them are made beforehand: in a list one takes 36 bytes."""


class VllmEngine:
    """Implements `base.Engine`.

    `connector` is what the handoff adds. What each step computed and how long it took is kept in a file
    (`step_records.path_of` the log), unless engine.args names a scheduler of its own.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        placement: Placement,
        log: Path,
        connector: Connector | None = None,
    ) -> None:
        self.name: str = placement.spec.name
        self.role: str = placement.spec.role
        self.counters = Counters()
        self.capabilities = ENGINE_EVIDENCE
        self.log = log
        self._settings, self._model, self._placement, self._connector = settings, model, placement, connector
        self._llm: Any = None
        self._config: Any = None
        self._processes: list[psutil.Process] = []
        self._cores: list[psutil.Process] = []
        self._start_s = 0.0
        self._said = 0
        """Bytes of the log that are of earlier starts."""
        self._recorded = False
        self._prepared: dict[str, tuple[FirstLeg, Any, list[int] | None]] = {}
        """Sampling parameters and the prompt's token ids by request id, with what they were made for."""

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("engines start on the main thread: forked children die with the thread that made them")
        self._said = self.log.stat().st_size if self.log.exists() else 0
        began, before = time.perf_counter(), set(psutil.Process().children(recursive=True))
        steps = {step_records.PATH: str(step_records.path_of(self.log).absolute())}
        with dies_with_parent() as parent, logs.to_file(self.log), changed({**self.environment(), **parent, **steps}):
            try:
                self._llm = self._launch()
                self._take_processes(before)
                self._confine()
            except BaseException as error:  # an interrupt, too, must leave nothing behind
                self._take_processes(before)
                self.close()
                if isinstance(error, UsageProblem) or not isinstance(error, Exception):
                    raise
                reason = logs.reason(error, self.log, self._said)
                raise EngineFailure(f"vLLM engine {self.name!r} could not start: {reason}") from None
        self._start_s = time.perf_counter() - began

    @property
    def llm(self) -> Any:
        """vLLM's AsyncLLM while the engine runs, else None: for what compares itself with ours on the same engine."""
        return self._llm

    def _launch(self) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        signals.guard_forks()  # vLLM and what it imports may have hooks of their own
        self._config = self.resolve()
        self._recorded = _record_steps(self._config.scheduler_config)
        if self._settings.device == "cpu":
            # vLLM's CPU platform sets spawn inside create_engine_config; fork starts in 2 s instead of 13.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        with self._threads():
            return AsyncLLM.from_vllm_config(self._config, stat_loggers=[stats.logger_class(self.counters)])

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        """While open, torch has one thread for each core of a CPU engine, which a forked EngineCore inherits.

        OMP_NUM_THREADS is read once, when torch is imported: a conftest.py may have done that before us.
        """
        import torch

        before = torch.get_num_threads()
        if self._settings.device == "cpu":
            torch.set_num_threads(len(self._placement.devices))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def resolve(self) -> Any:
        """vLLM's configuration of this engine. Raises UsageProblem for an engine argument that may not be given."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext

        seeded_weights.register()
        own, extra = self.arguments(), self._settings.engine.args
        known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
        for name in extra:
            if name in own or name in _OWNED:
                raise UsageProblem(f"engine.args.{name}: set by the run's settings, on which its arithmetic rests")
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise UsageProblem(
                    f"engine.args.{name}: vLLM has no such engine argument" + (f"; is it {near[0]}?" if near else "")
                )
        given = {name: value for name, value in own.items() if value is not None}
        return AsyncEngineArgs(**given, **extra).create_engine_config(UsageContext.ENGINE_CONTEXT)

    def arguments(self) -> dict[str, object]:
        """Keyword arguments of vLLM's AsyncEngineArgs; None leaves vLLM's default."""
        engine, on_cpu = self._settings.engine, self._settings.device == "cpu"
        arguments: dict[str, object] = {
            "model": str(self._model.path),
            "load_format": _LOAD_FORMATS[self._model.settings.weights],
            "skip_tokenizer_init": True,
            "seed": 0,  # of the weights, where they are seeded; the run's seed is each request's
            "dtype": self._model.dtype,
            "max_model_len": self._model.max_length,
            "block_size": block_tokens(self._settings),
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "max_num_seqs": engine.max_num_seqs,
            "enforce_eager": engine.enforce_eager,
            "enable_prefix_caching": engine.enable_prefix_caching,
            "max_logprobs": MOST_ALTERNATIVES,
        }
        if on_cpu:
            arguments["distributed_executor_backend"] = "uni"
        elif len(self._placement.devices) > 1:
            arguments["tensor_parallel_size"] = len(self._placement.devices)
        if on_cpu or engine.kv_cache_memory_bytes is not None:
            pool = pool_bytes(self._settings, self._model, self._placement)
            arguments["kv_cache_memory_bytes"] = pool if on_cpu else pool // len(self._placement.devices)
        if not on_cpu:
            arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization * self._placement.memory_share
        if self._connector is not None:
            from vllm.config import KVTransferConfig

            arguments["kv_transfer_config"] = KVTransferConfig(**self._connector[0])
        return arguments

    def environment(self) -> dict[str, str | None]:
        """What the engine's processes see; None removes a variable that would override the settings."""
        environment: dict[str, str | None] = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_COLOR": "0",
            "VLLM_PLUGINS": None,
            "VLLM_CPU_KVCACHE_SPACE": None,
            "VLLM_BATCH_INVARIANT": "1" if self._settings.engine.batch_invariant else None,
        }
        if self._settings.device == "cpu":
            cores = self._placement.devices
            environment |= {
                "OMP_NUM_THREADS": str(len(cores)),
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
                # OpenMP threads that spin for long starve each other once anything else runs: on a busy machine a token
                # took about three times as long with libgomp's default (docs/results/cpu-spincount.md). Yours wins.
                "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
                # Lets vLLM keep the in-process executor on CPU. AsyncLLM still runs the EngineCore in a child.
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            }
        else:
            gpus = visible_gpus()
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's, which counted them
            # Else torch asks CUDA whether there is a GPU, and an engine forked after that can't use it. vLLM sets it
            # when it is imported, and what vLLM sets while an engine starts does not stay.
            environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index] for index in self._placement.devices)
        return environment | dict(self._connector[1] if self._connector else {})

    def prepare(self, legs: Sequence[FirstLeg]) -> None:
        # Of 16 requests that are due together vLLM's first step takes those that have arrived: building these in
        # between cost the others a place in it (benchmarks/studies/overhead).
        few = sum(len(request.prompt) for request, _, _ in legs) <= _LISTED
        self._prepared = {leg[0].id: (leg, sampling(*leg), list(leg[0].prompt) if few else None) for leg in legs}

    async def serve(
        self,
        request: Request,
        leg: Leg,
        *,
        output_tokens: int,
        handoff: KvParameters | None,
        alternatives: int | None = None,
    ) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        made_for, parameters, tokens = self._prepared.pop(request.id, (None, None, None))
        if made_for != (request, output_tokens, handoff) or alternatives is not None:
            parameters, tokens = sampling(request, output_tokens, handoff, alternatives), None
        prompt, clock, output = {"prompt_token_ids": tokens or list(request.prompt)}, time.perf_counter, None
        leg.sent = clock()
        try:
            async for output in self._llm.generate(prompt, parameters, request.id):
                at, tokens = clock(), output.outputs[0].token_ids
                leg.token_ids.extend(tokens)
                leg.token_times.extend((at,) * len(tokens))
                if (own := output.metrics) is not None:
                    leg.engine_times.extend((own.last_token_ts,) * len(tokens))
                if alternatives is not None:
                    leg.alternatives.extend(map(_likeliest, output.outputs[0].logprobs or ()))
        except EngineDeadError:
            raise EngineFailure(f"{self.role} engine {self.name!r} died: {self.died_of}") from None
        if output is not None:
            _finish(leg, output)

    async def reset_prefix_cache(self) -> bool:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return bool(await self._llm.reset_prefix_cache())
        except EngineDeadError:
            raise EngineFailure(f"{self.role} engine {self.name!r} died: {self.died_of}") from None

    @property
    def dead(self) -> bool:
        # Of its processes the EngineCore, our own child, decides: vLLM's helpers may end at any time.
        return self._llm is None or bool(self._llm.errored) or not all(map(_runs, self._cores))

    @property
    def died_of(self) -> str:
        """What the log says of a death, or the process's exit code."""
        return logs.death(self.log, self._said, _exit_codes(self._llm)) or f"its log ({self.log}) does not say of what"

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            with contextlib.suppress(Exception):  # a dead engine may raise anything here, and must still be buried
                llm.shutdown(timeout=_SHUTDOWN_S)
        _, alive = psutil.wait_procs(self._processes, timeout=_SHUTDOWN_S if llm is not None else 0)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        self._processes = []

    def _take_processes(self, before: set[psutil.Process]) -> None:
        """Remember the processes that this engine started, so that `close` ends these and no others."""
        started = set(psutil.Process().children(recursive=True)) - before
        # Python's resource tracker serves every engine of this process and ends with it.
        self._processes = [process for process in started if not _is_resource_tracker(process)]
        self._cores = [process for process in self._processes if _parent(process) == os.getpid()]

    def _confine(self) -> None:
        """Keep a CPU engine on its own cores, every thread of it.

        Its executor, inside the EngineCore's process, binds nothing; and vLLM's NIXL connector binds that process to
        the machine's last core (base_worker.py), which is the same one for both engines of a handoff.
        """
        if self._settings.device == "cpu":
            for thread in (thread.id for process in self._cores for thread in process.threads()):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, self._placement.devices)

    @property
    def processes(self) -> tuple[Process, ...]:
        """Those that compute, as they run now."""
        return tuple(Process.of(one) for one in self._cores if _runs(one))

    def describe(self) -> dict[str, object]:
        return placed(self._settings, self._model, self._placement) | {
            "steps_recorded": self._recorded,
            "start_s": round(self._start_s, 2),
            "pids": [process.pid for process in self._cores],
            "environment": {name: value for name, value in self.environment().items() if value is not None},
            "vllm_config": described(self._config),
        }


def sampling(
    request: Request, output_tokens: int, handoff: KvParameters | None, alternatives: int | None = None
) -> Any:
    """vLLM's SamplingParams for one leg of a request: exactly `output_tokens`, none of them turned into text."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=output_tokens,
        temperature=request.temperature,
        seed=request.seed,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        logprobs=alternatives,
        extra_args=None if handoff is None else {"kv_transfer_params": dict(handoff)},
    )


def _record_steps(scheduler: Any) -> bool:
    """Put the recorded class in the place of vLLM's own; False where another one was chosen.

    Only in the resolved configuration: given as an argument, a class of ours could change what vLLM resolves.
    """
    if scheduler.scheduler_cls is not None:
        return False
    name = _RECORDED[bool(scheduler.async_scheduling)]
    scheduler.scheduler_cls = f"context_research.engines.vllm.step_recorder.{name}"
    return True


def _finish(leg: Leg, output: Any) -> None:
    """Take over what vLLM says of a request with its last output."""
    leg.finish_reason = output.outputs[0].finish_reason
    leg.cached_tokens = output.num_cached_tokens
    leg.handoff = output.kv_transfer_params
    if (own := output.metrics) is not None:
        leg.queued, leg.started = own.queued_ts or None, own.scheduled_ts or None
        leg.first_token = own.first_token_ts or None


def _likeliest(position: Mapping[int, Any]) -> dict[int, float]:
    """Token id -> log-probability, of vLLM's Logprob objects for one position."""
    return {int(token): float(found.logprob) for token, found in position.items()}


def placed(settings: Settings, model: Model, placement: Placement) -> dict[str, object]:
    """Where an engine is and how much KV it holds, as plain data."""
    return {
        "name": placement.spec.name,
        "role": placement.spec.role,
        "devices": list(placement.devices),
        "memory_share": placement.memory_share,
        "kv_pool_bytes": pool_bytes(settings, model, placement),
        "kv_bytes_per_token": model.kv_bytes_per_token,
    }


def described(config: object) -> dict[str, dict[str, object]]:
    """What decides an engine's behaviour in vLLM's resolved configuration, as plain data; empty for None."""
    return {name: _plain(getattr(config, f"{name}_config", None)) for name in _DESCRIBED if config}


def _plain(config: object) -> dict[str, object]:
    """The fields of one of vLLM's config dataclasses that are plain values (enums, dtypes: as text), but no secrets."""
    fields = {} if config is None else vars(config)
    return {
        name: value if type(value) in _PLAIN else str(value)
        for name, value in fields.items()
        if not name.startswith("_") and not name.endswith("token") and not isinstance(value, _NESTED)
    }


def _exit_codes(llm: Any) -> list[int | None]:
    with contextlib.suppress(AttributeError):  # vLLM's own, and not its interface
        return [process.exitcode for process in llm.engine_core.resources.engine_manager.processes]
    return []


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.ppid())
    return None


def _is_resource_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "resource_tracker" in " ".join(process.cmdline())
    return False
