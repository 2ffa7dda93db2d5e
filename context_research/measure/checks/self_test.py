"""How late the client itself is: it drives engines that compute nothing, with the requests of the busiest case.

What is late then is the client's own doing. Found out once a run, before any engine starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from context_research.backends.base import Backend
from context_research.engines.null import NullEngine
from context_research.measure import client_lag
from context_research.measure.client_lag import Lag
from context_research.models.model import Model
from context_research.request import Request, Timeline
from context_research.serving import build
from context_research.workload.arrivals import closed_loop, timed
from context_research.workload.case import Case
from context_research.workload.prompts import requests

_GAP_S = 1e-3
_ROUNDS = 4
"""Requests of each slot of a closed loop."""
_SECONDS, _STEP_S, _IN_FLIGHT, _TOKENS = 2.0, 0.02, 64, 16
"""Of a timed load: its densest seconds, beside so many other requests in flight whose tokens come so far apart."""
_OTHER = Request(id="other", prompt=[1, 2], output_tokens=_TOKENS, seed=0, temperature=0.0, sha256="")


def run(backend: Backend, case: Case, model: Model) -> Lag:
    """The lags of the client at this case's load."""
    batch, timelines, lateness = requests(case, model.vocabulary, 0), list[Timeline](), list[float]()
    gap = _STEP_S if case.settings.workload.timed else _GAP_S
    topology = build.build(backend, lambda placement: NullEngine(placement, gap))

    async def serve(request: Request, due: float) -> Timeline:
        timelines.append(await topology.serve(request, 0, due))
        return timelines[-1]

    async def other() -> None:
        while True:
            await topology.serve(_OTHER, 0, asyncio.get_running_loop().time())

    async def replay() -> None:
        async with client_lag.watched(lateness):
            if not case.settings.workload.timed:
                slots = case.concurrency or 1
                await closed_loop(batch[: _ROUNDS * slots], slots, serve)
                return
            others = [asyncio.create_task(other()) for _ in range(_IN_FLIGHT)]
            await timed(_densest(batch), case, serve)
            for task in others:
                task.cancel()

    with client_lag.frozen_heap():
        backend.loop.run(replay())
    if errors := [timeline.error for timeline in timelines if timeline.error]:
        raise RuntimeError(f"the client's self-test failed: {errors[0]}")  # a mistake of ours: nothing else is there
    return client_lag.of(timelines, lateness)


def busiest(cases: Sequence[Case]) -> Case:
    """That with most in flight, or most requests a second."""

    def load(case: Case) -> float:
        workload = case.settings.workload
        return case.concurrency or workload.rate or (1 / workload.trace.time_scale if workload.trace else 0)

    return max(cases, key=load)


def _densest(batch: Sequence[Request]) -> list[Request]:
    """Those of the densest seconds, due from 0 on, their outputs cut so that the test ends soon."""
    due = np.array([request.due or 0.0 for request in batch])
    counts = np.searchsorted(due, due + _SECONDS) - np.arange(len(due))
    first = int(counts.argmax())
    chosen = batch[first : first + int(counts[first])]
    return [
        replace(r, due=(r.due or 0.0) - due[first], output_tokens=min(r.output_tokens, _TOKENS), phase="measured")
        for r in chosen
    ]
