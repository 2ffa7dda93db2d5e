"""An engine around another one. What it does not change, the other does."""

import json


class Logged:
    """Appends each request that is served to `requests-served.jsonl`, beside the engine's log."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    async def serve(self, request, leg, **more):
        """The contract: context_research/engines/base.py."""
        await self._engine.serve(request, leg, **more)
        with self.log.with_name("requests-served.jsonl").open("a") as lines:
            lines.write(json.dumps({"engine": self.name, "request": request.id}) + "\n")
