"""Prefill on one engine, decode on another, the KV cache handed over between them."""

from __future__ import annotations

from context_research.engines.base import Engine, FirstLeg, KvParameters
from context_research.engines.vllm import handoff
from context_research.request import Leg, Request, Timeline
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
            parameters = await self._prefill(request, prefill, self._leg(timeline, prefill))
        # Chosen only now: by the load that decode has once the prompt is computed.
        with self._engine("decode") as decode:
            await self._decode(request, decode, self._leg(timeline, decode), parameters)

    async def hand_over(
        self, request: Request, prefill: Engine, decode: Engine, alternatives: int | None = None
    ) -> tuple[Leg, Leg]:
        first, second = Leg(prefill.name, prefill.role), Leg(decode.name, decode.role)
        parameters = await self._prefill(request, prefill, first, alternatives)
        await self._decode(request, decode, second, parameters, alternatives)
        return first, second

    @staticmethod
    async def _prefill(request: Request, engine: Engine, leg: Leg, alternatives: int | None = None) -> KvParameters:
        kept = handoff.PREFILL_PARAMETERS
        await engine.serve(request, leg, output_tokens=1, handoff=kept, **_asked(alternatives))
        return handoff.guarded(leg.handoff)

    @staticmethod
    async def _decode(
        request: Request, engine: Engine, leg: Leg, parameters: KvParameters, alternatives: int | None = None
    ) -> None:
        tokens = request.output_tokens
        await engine.serve(request, leg, output_tokens=tokens, handoff=parameters, **_asked(alternatives))


def _asked(alternatives: int | None) -> dict[str, int]:
    """Nothing where none are: engines that give no log-probabilities need not take the argument."""
    return {} if alternatives is None else {"alternatives": alternatives}
