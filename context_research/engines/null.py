"""An engine that computes nothing: what a client costs by itself shows when it drives this one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from context_research.engines.base import Counters, Evidence, FirstLeg, KvParameters
from context_research.hardware.placement import Placement
from context_research.hardware.processes import Process
from context_research.request import Leg, Request

_ANSWER = {
    "do_remote_prefill": True,
    "remote_engine_id": "null",
    "remote_request_id": "null",
    "remote_block_ids": [],
    "remote_host": "null",
    "remote_port": 0,
}


class NullEngine:
    """Implements `base.Engine`: a token every `gap` seconds, and an answer to every handoff. For self-tests only."""

    def __init__(self, placement: Placement, gap: float) -> None:
        self.name: str = placement.spec.name
        self.role: str = placement.spec.role
        self.log = Path(os.devnull)
        self.counters = Counters()
        self.capabilities = frozenset[Evidence]()
        self.dead = False
        self._gap = gap

    processes: tuple[Process, ...] = ()

    def start(self) -> None: ...

    def close(self) -> None: ...

    def prepare(self, legs: Sequence[FirstLeg]) -> None: ...

    async def serve(
        self,
        request: Request,
        leg: Leg,
        *,
        output_tokens: int,
        handoff: KvParameters | None,
        alternatives: int | None = None,
    ) -> None:
        del request, alternatives
        leg.sent = due = time.perf_counter()
        for index in range(output_tokens):
            due += self._gap
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            leg.token_ids.append(index)
            leg.token_times.append(time.perf_counter())
        leg.finish_reason, leg.handoff = "length", dict(_ANSWER) if handoff else None

    async def reset_prefix_cache(self) -> bool:
        return True

    def describe(self) -> dict[str, object]:
        return {}
