"""A connector that damages KV after it was delivered: with the fault that the file `FAULT` names now says.

``all:zero``, ``layer:-1:zero`` (one layer's), ``block:2:zero`` (one block, all layers), ``lastblock:-1:zero`` (one
block of the last layer), ``k:zero``/``v:zero``, ``all:int8`` and ``all:fp8`` (squeezed and widened again),
``all:noise=0.05`` (each value × (1 + N(0, 0.05))), ``all:shift`` (every token gets its neighbour's KV). Empty: none.
"""

import os
from pathlib import Path

import torch

from context_research.engines.vllm import nixl_connector

FAULT = "CONTEXT_RESEARCH_TEST_FAULT"


class NixlConnector(nixl_connector.NixlConnector):
    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        self._delivered, self._caches = {}, []

    def register_kv_caches(self, kv_caches, *args, **options):
        self._caches = list(kv_caches.values())
        return super().register_kv_caches(kv_caches, *args, **options)

    def start_load_kv(self, forward_context, **options):
        for request, read in self._connector_metadata.reqs_to_recv.items():
            self._delivered.setdefault(request, list(read.local_physical_block_ids[0]))
        super().start_load_kv(forward_context, **options)

    def get_transfer_results(self, finished_req_ids):
        results = super().get_transfer_results(finished_req_ids)
        for request in results.finished_recving or ():
            self._damage(self._delivered.pop(request, []))
        return results

    def _damage(self, blocks):
        fault = Path(os.environ[FAULT]).read_text(encoding="utf-8").strip()
        if not fault or not blocks:
            return
        where, _, rest = fault.partition(":")
        what = rest.rpartition(":")[2]
        index = int(rest.partition(":")[0]) if ":" in rest else 0
        layers = (
            self._caches[index:][:1]
            if where == "layer"
            else self._caches[-1:]
            if where == "lastblock"
            else self._caches
        )
        chosen = torch.tensor([blocks[index]] if "block" in where else blocks)
        for cache in layers:
            # K and V lie along the dimension of size 2; blocks along the other of the first two.
            halves = (cache.unbind(0) if cache.shape[0] == 2 else cache.unbind(1)) if 2 in cache.shape[:2] else [cache]
            for half in halves[:1] if where == "k" else halves[1:] if where == "v" else halves:
                half[chosen] = changed(half[chosen], what)


def changed(values, what):
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
    return (values.float() * (1 + float(size) * torch.randn(values.shape))).to(values.dtype)
