"""An engine that is no vLLM: what somebody else's plugin, or a server that is running already, may be."""

import asyncio
import time

from context_research.engines.base import Counters


class Foreign:
    """Answers after a millisecond a token. Gives no evidence, and says so."""

    capabilities = frozenset()

    def __init__(self, placement, log):
        self.name, self.role, self.log = placement.spec.name, placement.spec.role, log
        self.counters, self.dead = Counters(), False
        log.write_text("made\n")

    def start(self): ...

    def close(self): ...

    async def serve(self, _, leg, *, output_tokens, **__):
        leg.sent = time.perf_counter()
        for index in range(output_tokens):
            await asyncio.sleep(0.001)
            leg.token_ids.append(index)
            leg.token_times.append(time.perf_counter())
        leg.finish_reason = "length"

    def describe(self):
        return {"product": "tgi"}
