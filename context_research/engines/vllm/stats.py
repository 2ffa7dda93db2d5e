"""Counts what an engine says of each of its steps (vLLM's StatLoggerBase)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from context_research.engines.base import Counters

READS = "context_research_reads"
"""Key under which our connector (nixl_connector.py) adds (request id, started, finished) of each KV read."""


def logger_class(counters: Counters, clock: Callable[[], float] = time.perf_counter) -> Any:
    """A StatLoggerBase subclass that adds to `counters`, for AsyncLLM's `stat_loggers`; `clock` is the timelines'.

    Not vLLM's Prometheus metrics: two engines in one process overwrite each other's there.
    """
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StepCounter(StatLoggerBase):  # type: ignore[misc] # vLLM's class is untyped here
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

        def record(self, scheduler_stats: Any = None, iteration_stats: Any = None, *_: Any, **__: Any) -> None:
            if iteration_stats is not None:
                prompt = iteration_stats.prompt_token_stats
                counters.prompt_computed += prompt.computed
                counters.prompt_cached += prompt.local_cache_hit
                counters.prompt_external += prompt.external_kv_transfer
                counters.generated += iteration_stats.num_generation_tokens
                counters.preemptions += iteration_stats.num_preempted_reqs
            if scheduler_stats is not None:
                counters.cache_queries += scheduler_stats.prefix_cache_stats.queries
                counters.cache_hits += scheduler_stats.prefix_cache_stats.hits
                counters.use_kv(clock(), scheduler_stats.kv_cache_usage)
                if scheduler_stats.kv_connector_stats:
                    _count_transfers(counters, scheduler_stats.kv_connector_stats)

        def log_engine_initialized(self) -> None: ...

    return StepCounter


def _count_transfers(counters: Counters, records: Mapping[str, Sequence[Any]]) -> None:
    """NIXL's records of one step: parallel lists of seconds and bytes, and a list of ones for each kind of fault."""
    seconds, sizes = records.get("transfer_duration", []), records.get("bytes_transferred", [])
    counters.transfers.extend(zip(map(float, seconds), map(int, sizes), strict=True))
    counters.reads.extend((str(request), start, end) for request, start, end in records.get(READS, []))
    for kind, ones in records.items():
        if kind.startswith("num_") and kind != "num_descriptors" and ones:
            counters.faults[kind] = counters.faults.get(kind, 0) + int(sum(ones))
