"""vLLM's NIXL connector, noting when each request's KV was read; without NIXL's progress thread where that is asked.

Named as `kv_connector_module_path`. vLLM's own records of transfers name no request, so a run could not show which
request waited for which; the moments noted here are taken around the connector's public methods, on the engine's step.

NIXL's progress thread busy-polls: a whole core per engine, idle or not. On a machine whose cores compute, it took
decode's token gap from 3 ms to 10-42 ms.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1 import nixl

from context_research.engines.vllm.handoff import PROGRESS_THREAD
from context_research.engines.vllm.stats import READS

__all__ = ["NixlConnector"]


class _Stats(nixl.NixlKVConnectorStats):  # type: ignore[misc] # vLLM's classes are untyped here
    """vLLM's, with one more list: the frontend adds statistics up key by key."""

    def reset(self) -> None:
        super().reset()
        self.data[READS] = []


class NixlConnector(nixl.NixlConnector):  # type: ignore[misc]
    """vLLM's connector with `READS` in its statistics. It changes no transfer."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        if vllm_config.kv_transfer_config.get_from_extra_config(PROGRESS_THREAD, True) is False:
            _turn_progress_thread_off()
        super().__init__(vllm_config, role, kv_cache_config)
        self._reading: dict[str, float] = {}
        if self.connector_worker is not None:
            self.connector_worker.xfer_stats = _Stats()

    def start_load_kv(self, forward_context: Any, **options: Any) -> None:
        for request in self._connector_metadata.reqs_to_recv:
            self._reading.setdefault(request, time.perf_counter())
        super().start_load_kv(forward_context, **options)

    def get_finished(self, finished_req_ids: set[str]) -> Any:
        """vLLM 0.24 asks this for completed transfers."""
        sent, received = super().get_finished(finished_req_ids)
        self._note(received)
        return sent, received

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        """Later versions ask this."""
        results = super().get_transfer_results(finished_req_ids)
        self._note(results.finished_recving)
        return results

    def _note(self, received: set[str] | None) -> None:
        now = time.perf_counter()
        for request in received or ():
            if (started := self._reading.pop(request, None)) is not None:
                self.connector_worker.xfer_stats.data[READS].append((request, started, now))

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Any:
        return _Stats() if data is None else _Stats(data=data)


def _turn_progress_thread_off() -> None:
    from nixl._api import nixl_agent_config

    if hasattr(nixl_agent_config.__init__, "__wrapped__"):
        return
    make = nixl_agent_config.__init__

    @functools.wraps(make)
    def quiet(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **{**options, "enable_prog_thread": False, "num_threads": 0})

    nixl_agent_config.__init__ = quiet
