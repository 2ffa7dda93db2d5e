"""Prefill and decode on one engine."""

from __future__ import annotations

from context_research.engines.base import FirstLeg
from context_research.request import Request, Timeline
from context_research.serving.topology import Topology


class Aggregated(Topology):
    """One leg, on one of the replicas."""

    def _first_leg(self, request: Request) -> FirstLeg:
        return request, request.output_tokens, None

    async def _route(self, request: Request, timeline: Timeline) -> None:
        with self._engine("aggregated") as engine:
            leg = self._leg(timeline, engine)
            await engine.serve(request, leg, output_tokens=request.output_tokens, handoff=None)
