"""How far a case is, for whoever shows it; written on the event loop, read on the main thread."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from context_research.request import Request


@dataclass(slots=True)
class Progress:
    """Counts are of the whole case. `clock`: the one that its requests are served by, seconds; `total`: its requests.

    `simulated`: that clock is not the wall's. A case is `passes` long, the warm-up among them.
    """

    case: str
    total: int
    clock: Callable[[], float] = perf_counter
    simulated: bool = False
    passes: int = 1
    sent: int = 0
    done: int = 0
    output_tokens: int = 0
    started: float = field(init=False)
    begun: int = 0
    """Passes that have begun, this one too."""
    _pass: _Pass = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._pass = _Pass(self.started)

    def begin(self, batch: Sequence[Request]) -> None:
        """A pass begins now, with these requests."""
        moments = sorted(request.due for request in batch if request.due is not None)
        measured = (request.due for request in batch if request.due is not None and request.phase == "measured")
        seconds, before = max(measured, default=0.0), (self.sent, self.done, self.output_tokens)
        self._pass = _Pass(self.clock(), tuple(moments), seconds, *before)
        self.begun += 1

    @property
    def timed(self) -> bool:
        """Whether the requests of the pass are due at moments that are known beforehand."""
        return bool(self._pass.moments)

    @property
    def elapsed(self) -> float:
        """Seconds of the case; of the pass where that is a timed one."""
        return max(self.clock() - (self._pass.started if self.timed else self.started), 1e-9)

    @property
    def due(self) -> int:
        """Requests that should have been sent by now; of a closed loop those that were."""
        if not self.timed:
            return self.sent
        return self._pass.sent_before + bisect_right(self._pass.moments, self.elapsed)

    @property
    def in_flight(self) -> int:
        return self.sent - self.done

    @property
    def rate(self) -> float:
        """Requests a second that are done."""
        return (self.done - (self._pass.done_before if self.timed else 0)) / self.elapsed

    @property
    def token_rate(self) -> float:
        """Output tokens a second of requests that are done."""
        return (self.output_tokens - (self._pass.tokens_before if self.timed else 0)) / self.elapsed

    @property
    def left(self) -> float | None:
        """Seconds until the case is likely to end; None where nothing is done yet that would tell."""
        if self.timed:  # passes are of one length, as their loads are; what is in flight at their end is not known
            return max(0.0, self._pass.seconds - self.elapsed) + (self.passes - self.begun) * self._pass.seconds
        return (self.total - self.done) / self.rate if self.done else None


@dataclass(slots=True)
class _Pass:
    """`moments`: when its requests are due, in order, seconds from `started`; the last measured one at `seconds`."""

    started: float
    moments: tuple[float, ...] = ()
    seconds: float = 0.0
    sent_before: int = 0
    done_before: int = 0
    tokens_before: int = 0
