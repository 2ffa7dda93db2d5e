"""One request: what is asked, what each engine did for it, what the client saw.

Moments are on one clock: seconds of `time.perf_counter()`, which engines share on Linux.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Phase = Literal["warmup", "ramp", "measured", "drain"]
"""Where in a case a request is: before it, while the load builds up, in its window, or keeping the load up to its end.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, made before the clock starts.

    `prompt` holds token ids; exactly `output_tokens` are generated (end-of-sequence is ignored).
    `sha256` covers everything that is sent, so that two runs can show that they sent the same.
    Latencies are those of phase `measured`; requests of `ramp` and `drain` keep the load up around them.
    """

    id: str
    prompt: Sequence[int]
    output_tokens: int
    seed: int
    temperature: float
    sha256: str
    phase: Phase = "measured"


@dataclass(slots=True)
class Leg:
    """What one engine did for one request. Filled while it happens, so that a leg that fails keeps what it got.

    `token_times[i]` is when the client had `token_ids[i]`; tokens that arrived in one chunk share a time.
    `queued`, `started`, `first_token` and `last_token` are the engine's own (vLLM's RequestStateStats).
    """

    engine: str
    sent: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    queued: float | None = None
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the engine did not compute: from its prefix cache or from another engine."""
    finish_reason: str | None = None
    handoff: dict[str, Any] | None = None
    """vLLM's kv_transfer_params as the engine returned them."""
    alternatives: list[dict[int, float]] = field(default_factory=list)
    """Log-probabilities of the likeliest tokens at each position, where they were asked for."""


@dataclass(slots=True)
class Timeline:
    """One request from the moment it was due to its last token. Times are None where that stage did not happen.

    In aggregated mode the prefill and decode stages are the same engine's; there is no handoff. `prefill_engine` and
    `decode_engine` are the names of those that the request was sent to.
    `decode_sent` is when the client passed the KV's address on; `handoff_started` and `handoff_finished` bound the
    reading of the KV, as the decode engine's connector saw it. `decode_started` is when the decode engine first
    scheduled the request, its KV cache loaded; `decode_first_token` when that engine had its first token, which the
    client had at `token_times[0]`.
    """

    request: str
    prompt_sha256: str
    repeat: int
    scheduled: float
    sent: float
    prompt_tokens: int
    output_tokens_asked: int
    phase: Phase = "measured"
    prefill_engine: str | None = None
    decode_engine: str | None = None
    prefill_queued: float | None = None
    prefill_started: float | None = None
    prefill_finished: float | None = None
    decode_sent: float | None = None
    decode_queued: float | None = None
    handoff_started: float | None = None
    handoff_finished: float | None = None
    decode_started: float | None = None
    decode_first_token: float | None = None
    token_times: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finished: float | None = None
    prefill_cached_tokens: int | None = None
    decode_cached_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Finished without error and with exactly the tokens asked for."""
        return self.error is None and len(self.token_times) == self.output_tokens_asked

    @property
    def computed_on_decode(self) -> int | None:
        """Prompt tokens that the decode engine computed itself; None in aggregated mode."""
        return None if self.decode_cached_tokens is None else self.prompt_tokens - self.decode_cached_tokens

    def as_json(self, origin: float) -> dict[str, Any]:
        """Plain data, times in seconds since `origin` (the case's start)."""
        record = asdict(self)
        for name, value in record.items():
            if isinstance(value, float):
                record[name] = round(value - origin, 7)
        record["token_times"] = [round(at - origin, 7) for at in self.token_times]
        return record


def of_aggregated(timeline: Timeline, leg: Leg) -> None:
    """Fill `timeline` from its only leg."""
    _of_prefill(timeline, leg)
    timeline.decode_engine = leg.engine
    _of_tokens(timeline, leg)


def of_disaggregated(timeline: Timeline, prefill: Leg, decode: Leg) -> None:
    """Fill `timeline` from both legs; every token that counts is the decode engine's."""
    _of_prefill(timeline, prefill)
    _of_tokens(timeline, decode)
    timeline.decode_sent = decode.sent or None
    timeline.decode_engine = decode.engine or None
    timeline.decode_queued, timeline.decode_started = decode.queued, decode.started
    timeline.decode_first_token = decode.first_token
    timeline.decode_cached_tokens = decode.cached_tokens


def add_reads(timelines: Iterable[Timeline], reads: Iterable[tuple[str, float, float]]) -> None:
    """Note in each timeline when its KV was read: (engine's request id, started, finished) from the connector.

    vLLM appends a suffix of its own to a request's id; a request keeps its name before the last dash.
    """
    found = {name: moments for name, *moments in reads}
    found |= {name.rpartition("-")[0]: moments for name, moments in found.items()}
    for timeline in timelines:
        if moments := found.get(timeline.request):
            timeline.handoff_started, timeline.handoff_finished = moments


def _of_prefill(timeline: Timeline, leg: Leg) -> None:
    timeline.sent = leg.sent or timeline.sent
    timeline.prefill_engine = leg.engine or None
    timeline.prefill_queued, timeline.prefill_started = leg.queued, leg.started
    timeline.prefill_finished = leg.first_token
    timeline.prefill_cached_tokens = leg.cached_tokens


def _of_tokens(timeline: Timeline, leg: Leg) -> None:
    timeline.token_times, timeline.token_ids = leg.token_times, leg.token_ids
    timeline.finished = leg.token_times[-1] if leg.token_times else None
    timeline.finish_reason = leg.finish_reason
