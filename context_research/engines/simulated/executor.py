"""What vLLM's EngineCore drives instead of workers when an engine is simulated: it computes nothing.

It answers every batch at once with one token for each request that a real worker would have sampled for, and keeps what
the batch was, so that the engine around it (engine.py) can let the time pass that it would have taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.v1.attention.backends.utils import record_kv_cache_layout
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

from context_research.engines.batch import Batch

_TOKEN = [0]
"""What every request "generates"; end-of-sequence is ignored."""
_LAYOUT = "LBHNC"
"""Blocks of a layer next to each other, K and V apart: what NIXL's connector asks vLLM for."""


class SimulatedExecutor(Executor):  # type: ignore[misc] # vLLM's classes are untyped here
    """Workers' side of a dense transformer's engine, without any.

    `pool_bytes` is the KV memory that profiling would have found; `read` is called for each KV read that a batch
    starts, with vLLM's request id and ReqMeta.
    """

    def __init__(self, vllm_config: Any, *, pool_bytes: int, read: Callable[[str, Any], None]) -> None:
        self._pool_bytes, self._read = pool_bytes, read
        self.batches: deque[tuple[Batch, bool]] = deque()
        """Given to the device and not taken off yet, oldest first; an empty step is an empty batch. With each, whether
        its output tells vLLM of an ended read, which the batch after that output can make something of."""
        self.scheduled: list[str] = []
        """Requests that were scheduled for the first time since this was last emptied."""
        self.received: dict[str, None] = {}
        self.sent: dict[str, None] = {}
        """KV reads that have ended, by request id: told to vLLM with the next batch. Not sets: vLLM frees the blocks of
        reads in the order told, which decides what leaves the prefix cache first, and a set's is another each run."""
        self._prompts: dict[str, int] = {}
        self._sampled: ModelRunnerOutput | None = None
        super().__init__(vllm_config)

    def _init_executor(self) -> None: ...

    def get_kv_cache_specs(self) -> list[dict[str, Any]]:
        model, parallel = self.model_config, self.parallel_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=model.get_num_kv_heads(parallel),
            head_size=model.get_head_size(),
            dtype=model.dtype,
        )
        return [{f"layers.{layer}": spec for layer in range(model.get_num_layers(parallel))}]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        return [[_LAYOUT]]

    def set_kv_cache_layout(self, layout_name: str) -> None:
        record_kv_cache_layout(self.cache_config, layout_name)

    def determine_available_memory(self) -> list[int]:
        return [self._pool_bytes]

    def initialize_from_config(self, kv_cache_configs: list[Any]) -> None: ...

    def compile_or_warm_up_model(self) -> None: ...

    def get_kv_connector_handshake_metadata(self) -> list[Any]:
        return []

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """None where tokens were computed, as of real workers: `sample_tokens` then has the output."""
        del non_block  # EngineCore always passes True
        # The first thing that a real worker does with a batch: start its reads, then look which earlier ones ended.
        tells = bool(self.sent or self.received)
        transfers = self._transfers(scheduler_output)
        work = self._work(scheduler_output)
        self.batches.append((Batch.of((new, before) for new, before, _ in work.values()), tells))
        # A worker samples where a request's last token is computed; a partial prefill has some left.
        found = {request: _TOKEN if before + new >= length else [] for request, (new, before, length) in work.items()}
        output = ModelRunnerOutput(
            req_ids=list(found),
            req_id_to_index={request: index for index, request in enumerate(found)},
            sampled_token_ids=list(found.values()),
            kv_connector_output=transfers,
        )
        self._sampled = output if found else None
        return _Done(None if found else output)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        del grammar_output
        return _Done(self._sampled) if non_block else self._sampled

    def _work(self, scheduler_output: Any) -> dict[str, tuple[int, int, int]]:
        """Of each request in the batch: tokens computed now, tokens computed before, tokens that it has."""
        for request in scheduler_output.finished_req_ids:
            self._prompts.pop(request, None)
        now, cached, work = scheduler_output.num_scheduled_tokens, scheduler_output.scheduled_cached_reqs, {}
        for new in scheduler_output.scheduled_new_reqs:
            self._prompts[new.req_id] = len(new.prompt_token_ids)
            self.scheduled.append(new.req_id)
            length = len(new.prefill_token_ids or new.prompt_token_ids)
            work[new.req_id] = now[new.req_id], new.num_computed_tokens, length
        for request, before, outputs in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            work[request] = now[request], before, self._prompts[request] + outputs
        return work

    def _transfers(self, scheduler_output: Any) -> KVConnectorOutput | None:
        if (metadata := scheduler_output.kv_connector_metadata) is None:
            return None
        for request, read in metadata.reqs_to_recv.items():
            self._read(request, read)
        told = KVConnectorOutput(finished_sending=self.sent or None, finished_recving=self.received or None)
        self.sent, self.received = {}, {}
        return told

    def collective_rpc(self, method: Any, *_: Any, **__: Any) -> list[Any]:
        raise NotImplementedError(f"vLLM asked the simulated executor for {method}, which it does not know")

    def check_health(self) -> None: ...

    def shutdown(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Done:
    """A future that is done; concurrent.futures' own takes a lock for every step."""

    value: Any

    def result(self) -> Any:
        return self.value

    def done(self) -> bool:
        return True
