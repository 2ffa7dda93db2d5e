"""Prefill on one engine, decode on another, the KV cache handed over between them."""

from __future__ import annotations

from context_research.engines.base import FirstLeg
from context_research.engines.vllm import handoff
from context_research.request import Request, Timeline
from context_research.serving.topology import Topology


class Disaggregated(Topology):
    """Two legs with the same request id, as vLLM's own proxies do it.

    Prefill makes one token, which is discarded: the first token that the client sees is decode's, which computes the
    prompt's last token again for it.
    """

    def _first_leg(self, request: Request) -> FirstLeg:
        return request, 1, handoff.PREFILL_PARAMETERS

    async def _route(self, request: Request, timeline: Timeline) -> None:
        with self._engine("prefill") as prefill:
            first = self._leg(timeline, prefill)
            await prefill.serve(request, first, output_tokens=1, handoff=handoff.PREFILL_PARAMETERS)
        parameters = handoff.guarded(first.handoff)
        # Chosen only now: by the load that decode has once the prompt is computed.
        with self._engine("decode") as decode:
            second = self._leg(timeline, decode)
            await decode.serve(request, second, output_tokens=request.output_tokens, handoff=parameters)
