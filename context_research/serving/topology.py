"""A serving mode at work: its engines, and one request's way through them."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

from context_research.backends.base import Backend
from context_research.engines import contract
from context_research.engines.base import Engine, FirstLeg
from context_research.errors import EngineFailure
from context_research.records.run import EngineRecord
from context_research.request import Leg, Request, Timeline
from context_research.settings.schema import Routing


class Topology(ABC):
    """Engines in a serving mode. `serve` runs on the backend's event loop, all else on the main thread."""

    def __init__(
        self,
        backend: Backend,
        engines: Sequence[Engine],
        timeout_s: float,
        routing: Routing = "least_loaded",
    ) -> None:
        self.backend, self.engines = backend, tuple(engines)
        self._timeout_s, self._routing = timeout_s, routing
        self._failed_request = False
        self._routed, self._in_flight = Counter[str](), Counter[str]()
        """By role: requests so far. By engine: requests that it has now."""

    def start(self) -> None:
        """Start the engines, one after another. Those that did start are closed again where one can't be had.

        Raises EngineFailure; UsageProblem for an engine that does not describe itself.
        """
        self._failed_request = False
        try:
            for engine in self.engines:
                engine.start()
            self.describe()
        except BaseException:
            self.close()
            raise

    def describe(self) -> tuple[EngineRecord, ...]:
        """Each engine as artifacts hold it."""
        by_name = {placement.spec.name: placement for placement in self.backend.placements}
        return tuple(contract.described(engine, by_name[engine.name]) for engine in self.engines)

    def revive(self) -> str | None:
        """Restart all engines if one died or a request failed; says why, or None where nothing was to do.

        A dead engine never recovers, and its peers hold connections to it. After a failed request an engine may hang,
        or keep KV whose lease would run out in another case's counts. Raises EngineFailure as `start` does.
        """
        dead = [engine.name for engine in self.engines if engine.dead]
        if not dead and not self._failed_request:
            return None
        self.close()
        self.start()
        return f"{', '.join(dead)} had died" if dead else "a request had failed"

    def close(self) -> None:
        """Close every engine, in reverse order, also if one fails to."""
        with contextlib.ExitStack() as stack:
            for engine in self.engines:
                stack.callback(engine.close)

    def prepare(self, requests: Sequence[Request]) -> None:
        """Have the first legs of requests that are sent next built before a clock runs."""
        legs = [self._first_leg(request) for request in requests]
        for engine in self.prefillers:
            if hasattr(engine, "prepare"):
                engine.prepare(legs)

    async def serve(self, request: Request, repeat: int, scheduled: float) -> Timeline:
        """One request's timeline. Never raises for what happens to the request: that is in `timeline.error`."""
        timeline = Timeline(
            request=request.id,
            prompt_sha256=request.sha256,
            repeat=repeat,
            scheduled=scheduled,
            prompt_tokens=len(request.prompt),
            output_tokens_asked=request.output_tokens,
            phase=request.phase,
            class_name=request.class_name,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._route(request, timeline)
        except TimeoutError:
            timeline.error = f"no end after {self._timeout_s:g} s ({self._where(timeline)})"
        except EngineFailure as failure:
            timeline.error = str(failure)
        except Exception as error:  # what vLLM raises for one request (EngineGenerateError, ValueError, …)
            timeline.error = f"{type(error).__name__}: {error} ({self._where(timeline)})"
        else:
            # End-of-sequence is ignored: a request ends at its length, or something cut it short.
            if not timeline.complete or timeline.finish_reason != "length":
                timeline.error = (
                    f"ended with finish reason {timeline.finish_reason!r} after {len(timeline.token_times)} of "
                    f"{request.output_tokens} tokens ({self._where(timeline)})"
                )
        if timeline.error and (dead := [engine for engine in self.engines if engine.dead]):
            # Its peer may be the one that noticed, and only say "error".
            timeline.error = "; ".join(map(_died, dead))
        self._failed_request |= timeline.error is not None
        return timeline

    async def hand_over(
        self, request: Request, prefill: Engine, decode: Engine, alternatives: int | None = None
    ) -> tuple[Leg, Leg]:
        """One request from `prefill` to `decode`, outside of any measurement; what each did. Raises as engines do."""
        raise NotImplementedError(f"{type(self).__name__} hands nothing over")

    @abstractmethod
    async def _route(self, request: Request, timeline: Timeline) -> None:
        """Pass the request through the engines, a `_leg` of `timeline` for each."""

    @staticmethod
    def _leg(timeline: Timeline, engine: Engine) -> Leg:
        """The request's next leg, which `engine` fills; in `timeline` from now on, whatever becomes of it."""
        leg = Leg(engine.name, engine.role)
        timeline.legs.append(leg)
        return leg

    @abstractmethod
    def _first_leg(self, request: Request) -> FirstLeg:
        """What the first engine gets."""

    @contextlib.contextmanager
    def _engine(self, role: str) -> Iterator[Engine]:
        """The engine of `role` whose turn it is, or that has the fewest requests; it has this one while open."""
        engines = self.of_role(role)
        if self._routing == "round_robin":
            engine = engines[self._routed[role] % len(engines)]
        else:
            engine = min(engines, key=lambda each: self._in_flight[each.name])
        self._routed[role] += 1
        self._in_flight[engine.name] += 1
        try:
            yield engine
        finally:
            self._in_flight[engine.name] -= 1

    def of_role(self, role: str) -> list[Engine]:
        """Every engine of `role`, in the serving config's order."""
        return [engine for engine in self.engines if engine.role == role]

    @property
    def prefillers(self) -> list[Engine]:
        """The engines that compute prompts."""
        return self.of_role("prefill") or self.of_role("aggregated")

    @property
    def decoders(self) -> list[Engine]:
        """The engines whose tokens the client sees."""
        return self.of_role("decode") or self.of_role("aggregated")

    def _where(self, timeline: Timeline) -> str:
        """Which engine had the request last, for messages."""
        name = next((leg.engine for leg in reversed(timeline.legs) if leg.sent is not None), None)
        engine = next((engine for engine in self.engines if engine.name == name), self.prefillers[0])
        return f"on {engine.role} engine {engine.name!r}"


def _died(engine: Engine) -> str:
    """That it died, and of what where it says so."""
    told = f"{engine.role} engine {engine.name!r} died"
    return f"{told}: {why}" if (why := getattr(engine, "died_of", None)) else told
