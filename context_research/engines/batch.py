"""The composition of one engine step: the features that step-time models use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Batch:
    """The composition of one step.

    A request of which one token is computed counts as decode, any other as prefill: so vLLM's attention kernels sort
    them. `…_kv_tokens` are those computed before this step, of all requests of the kind together; `prefill_pairs` are
    query-key pairs (each token attends to all before it and to itself), which attention's work is proportional to.
    """

    prefill_requests: int = 0
    prefill_tokens: int = 0
    prefill_kv_tokens: int = 0
    prefill_pairs: int = 0
    decode_requests: int = 0
    decode_kv_tokens: int = 0

    @property
    def requests(self) -> int:
        """How many requests are in it; 0 of a step that computes nothing."""
        return self.prefill_requests + self.decode_requests

    @classmethod
    def of(cls, scheduled: Iterable[tuple[int, int]]) -> Batch:
        """The batch of requests given as (tokens computed in this step, tokens computed before)."""
        requests = tokens = kv = pairs = decodes = decode_kv = 0
        for new, before in scheduled:
            if new == 1:
                decodes += 1
                decode_kv += before
            else:
                requests += 1
                tokens += new
                kv += before
                pairs += new * before + new * (new + 1) // 2
        return cls(requests, tokens, kv, pairs, decodes, decode_kv)
