"""What the rest of the project needs from an engine. Implemented by `vllm.VllmEngine`; yours by a hook (hookspecs).

contract.py checks that an engine is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias

from context_research.hardware.processes import Process
from context_research.request import Leg, Request

USAGE_S = 0.1
"""Seconds between two figures of how much KV is in use."""
MOST_ALTERNATIVES = 100
"""Likeliest tokens whose log-probabilities `Engine.serve` may be asked for. vLLM's default is 20."""


class Evidence(StrEnum):
    """Kinds of evidence that validity checks rest on. An engine or a backend says which it gives."""

    COUNTS = "counts"
    """`Counters`, of every step."""
    TRANSFERS = "transfers"
    """`Counters.transfers` and `reads`: seconds and bytes of each KV transfer, and when it happened."""
    CACHED_TOKENS = "cached tokens"
    """`Leg.cached_tokens`, of each request."""
    RESETS = "resets"
    """A prefix cache that can be emptied, and says whether it was."""
    CLOCK = "clock"
    """The engine's own moments of each request (`Leg.queued`, `started`, `first_token`, `engine_times`), by the clock
    that the client has."""
    LOG = "log"
    """What the connector writes into the engine's log of the way that KV takes."""
    OUTPUTS = "outputs"
    """Tokens of a model: the same request, served greedily again, has the same ones."""
    ALTERNATIVES = "alternatives"
    """Log-probabilities of the likeliest tokens."""
    WALL_TIME = "wall time"
    """A client in real time, which can be late. The backend's to give."""
    ENERGY = "energy"
    """Joules of the devices that serve. The backend's to give."""


ENGINE_EVIDENCE = frozenset(Evidence) - {Evidence.WALL_TIME, Evidence.ENERGY}
"""All that an engine can give; one that says nothing is held to it."""


def _count() -> int:
    """A field of `Counters` that is added up over engines, and whose difference is what happened in between."""
    number: int = field(default=0, metadata={"count": True})
    return number


@dataclass(slots=True)
class Counters:
    """An engine's own counts since it started, from its per-step statistics.

    `transfers` holds the connector's own records of completed KV transfers, (seconds, bytes) each; `reads` when each
    request's KV was read, (request id, started, finished) in perf_counter seconds; `faults` counts what else went
    wrong (failed transfers, expired leases, …) by the connector's names. `kv_usage_max` is the peak share of the pool
    since last set to 0, `kv_usage` its course: (perf_counter seconds, share), the fullest of every tenth of a second.
    `steps`, and those of them whose duration is `extrapolated`, are a simulated engine's.
    """

    prompt_computed: int = _count()
    prompt_cached: int = _count()
    prompt_external: int = _count()
    generated: int = _count()
    cache_queries: int = _count()
    cache_hits: int = _count()
    preemptions: int = _count()
    steps: int = _count()
    extrapolated: int = _count()
    kv_usage_max: float = 0.0
    kv_usage: list[tuple[float, float]] = field(default_factory=list)
    transfers: list[tuple[float, int]] = field(default_factory=list)
    reads: list[tuple[str, float, float]] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)

    def use_kv(self, at: float, share: float) -> None:
        """Note that so much of the pool is in use."""
        self.kv_usage_max = max(self.kv_usage_max, share)
        if self.kv_usage and at - self.kv_usage[-1][0] < USAGE_S:
            at, before = self.kv_usage.pop()
            share = max(share, before)
        self.kv_usage.append((at, share))

    def snapshot(self) -> Counters:
        return replace(
            self,
            kv_usage=list(self.kv_usage),
            transfers=list(self.transfers),
            reads=list(self.reads),
            faults=dict(self.faults),
        )

    def __add__(self, other: Counters) -> Counters:
        """What two engines of one role counted together; `kv_usage_max` is the fuller one's."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Counters(
            **counts,
            kv_usage_max=max(self.kv_usage_max, other.kv_usage_max),
            transfers=self.transfers + other.transfers,
            reads=self.reads + other.reads,
            faults={k: self.faults.get(k, 0) + other.faults.get(k, 0) for k in self.faults | other.faults},
        )

    def since(self, earlier: Counters) -> Counters:
        """What was counted after `earlier`, a snapshot."""
        counts = {name: getattr(self, name) - getattr(earlier, name) for name in _COUNTS}
        return Counters(
            **counts,
            kv_usage_max=self.kv_usage_max,
            kv_usage=self.kv_usage[len(earlier.kv_usage) :],
            transfers=self.transfers[len(earlier.transfers) :],
            reads=self.reads[len(earlier.reads) :],
            faults={k: n - earlier.faults.get(k, 0) for k, n in self.faults.items() if n != earlier.faults.get(k, 0)},
        )


_COUNTS = tuple(entry.name for entry in fields(Counters) if entry.metadata.get("count"))


KvParameters: TypeAlias = Mapping[str, object]
"""vLLM's kv_transfer_params: passed from one engine to the other unread, but for a few keys."""
FirstLeg: TypeAlias = tuple[Request, int, KvParameters | None]
"""A request, its `output_tokens` and its `handoff`, as `Engine.serve` gets them."""


class Engine(Protocol):
    """One engine. All coroutines run on the session's event loop; `start` and `close` on the main thread."""

    name: str
    role: str
    log: Path
    """The file that gets what the engine and the libraries below it print."""
    counters: Counters
    capabilities: frozenset[Evidence]
    """The evidence that it gives. Optional: `ENGINE_EVIDENCE` where it doesn't say."""

    def start(self) -> None:
        """Start, and return when the engine can serve. Raises EngineFailure, quoting the engine's own reason."""

    def close(self) -> None:
        """End the engine and everything it started. Safe to call twice."""

    @property
    def dead(self) -> bool:
        """True once the engine has died; it never recovers, only `close` and a new `start` help.

        `died_of`, optional: of what, in one line.
        """

    @property
    def processes(self) -> tuple[Process, ...]:
        """Its processes on this machine, as they run now; optional.

        Whether they stay the same, their cores and their niceness are judged.
        """

    def prepare(self, legs: Sequence[FirstLeg]) -> None:
        """Pre-build sampling parameters for requests about to be sent; replaces earlier ones.

        Optional, also the method: `serve` builds what was not prepared, and requests due with this one wait for it.
        """

    async def serve(
        self,
        request: Request,
        leg: Leg,
        *,
        output_tokens: int,
        handoff: KvParameters | None,
        alternatives: int | None = None,
    ) -> None:
        """Run one request, filling `leg` as tokens arrive.

        `handoff` is passed to the connector (vLLM's kv_transfer_params); `alternatives` asks for the log-probabilities
        of so many likeliest tokens at each position (MOST_ALTERNATIVES at most). Raises EngineFailure when it dies.
        """

    async def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False where blocks are in use. All counts of earlier requests are in afterwards."""

    def describe(self) -> dict[str, object]:
        """The engine as plain data, for artifacts: whatever says how it was configured. `pids` are those of its
        processes, `vllm_config` vLLM's resolved configuration by group; both optional."""


def capabilities(engine: Engine) -> frozenset[Evidence]:
    """The evidence that an engine gives; one that does not say so is held to all of it."""
    return getattr(engine, "capabilities", ENGINE_EVIDENCE)
