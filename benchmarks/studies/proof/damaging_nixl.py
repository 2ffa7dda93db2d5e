"""A connector that damages KV after it was delivered: with the fault that the file `FAULT` names now says.

``all:zero``, ``layer:-1:zero`` (one layer's), ``block:2:zero`` (one block, all layers), ``lastblock:-1:zero`` (one
block of the last layer), ``k:zero``/``v:zero``, ``all:int8`` and ``all:fp8`` (squeezed and widened again),
``all:noise=0.05`` (each value × (1 + N(0, 0.05))), ``all:shift`` (every token gets its neighbour's KV). Empty: none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from context_research.engines.vllm import nixl_connector

FAULT = "CONTEXT_RESEARCH_TEST_FAULT"


class NixlConnector(nixl_connector.NixlConnector):
    """Ours, with the damage done when a read has ended."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._delivered: dict[str, list[int]] = {}
        self._caches: list[Any] = []

    def register_kv_caches(self, kv_caches: dict[str, Any], *args: Any, **options: Any) -> Any:
        self._caches = list(kv_caches.values())
        return super().register_kv_caches(kv_caches, *args, **options)

    def start_load_kv(self, forward_context: Any, **options: Any) -> None:
        for request, read in self._connector_metadata.reqs_to_recv.items():
            blocks = getattr(read, "local_physical_block_ids", None) or read.local_block_ids
            self._delivered.setdefault(request, list(blocks[0] if isinstance(blocks[0], list | tuple) else blocks))
        super().start_load_kv(forward_context, **options)

    def _note(self, received: set[str] | None) -> None:
        """Called for every read that ended, in each version of vLLM."""
        super()._note(received)
        for request in received or ():
            self._damage(self._delivered.pop(request, []))

    def _damage(self, blocks: list[int]) -> None:
        fault = Path(os.environ[FAULT]).read_text(encoding="utf-8").strip()
        if not fault or not blocks:
            return
        where, _, rest = fault.partition(":")
        what = rest.rpartition(":")[2]
        index = int(rest.partition(":")[0]) if ":" in rest else 0
        layers = {"layer": self._caches[index:][:1], "lastblock": self._caches[-1:]}
        chosen = [blocks[index]] if "block" in where else blocks
        for cache in layers.get(where, self._caches):
            # K and V lie along the dimension of size 2; blocks along the other of the first two.
            halves = (cache.unbind(0) if cache.shape[0] == 2 else cache.unbind(1)) if 2 in cache.shape[:2] else [cache]
            for half in halves[:1] if where == "k" else halves[1:] if where == "v" else halves:
                half[chosen] = changed(half[chosen], what)


def changed(values: Any, what: str) -> Any:
    """KV values as a fault leaves them."""
    if what == "zero":
        return torch.zeros_like(values)
    if what == "int8":
        scale = values.float().abs().amax() / 127
        return ((values.float() / scale).round() * scale).to(values.dtype)
    if what == "fp8":
        return values.to(torch.float8_e4m3fn).to(values.dtype)
    if what == "bf16":
        return values.to(torch.bfloat16).to(values.dtype)
    if what == "shift":
        return values.roll(1, dims=-2)
    kind, _, size = what.partition("=")
    assert kind == "noise", what
    return (values.float() * (1 + float(size) * torch.randn_like(values.float()))).to(values.dtype)
