"""One request: what is asked, what each engine did for it, what the client saw.

Moments are on one clock: seconds of `time.perf_counter()`, which engines share on Linux.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["warmup", "ramp", "measured", "drain", "tail"]
"""Where in a case a request is: before it, while the load builds up, in its window, or keeping the load up to its end.

A `drain` is sent whole. A `tail`, a timed load's or that of a closed loop of varying lengths, is sent for as long as
measured requests are being served.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, made before the clock starts.

    `prompt` holds token ids, four bytes each; exactly `output_tokens` are generated (end-of-sequence is ignored).
    `sha256` covers everything that is sent, and when, so that two runs can show that they sent the same.
    Latencies are those of phase `measured`; others keep the load up around them.
    `due`: seconds from the start of its pass, None where that depends on how others are served (a closed loop).
    """

    id: str
    prompt: Sequence[int]
    output_tokens: int
    seed: int
    temperature: float
    sha256: str
    phase: Phase = "measured"
    due: float | None = None
    class_name: str = ""
    """The part of the load that it belongs to; empty where the load has no classes."""


@dataclass(slots=True)
class Leg:
    """What one engine did for one request. Filled while it happens, so that a leg that fails keeps what it got.

    `token_times[i]` is when the client had `token_ids[i]`; tokens that arrived in one chunk share a time.
    `engine_times[i]` is when the engine had made it, by the engine's own account; empty where it doesn't say.
    `queued`, `started` and `first_token` are the engine's own (vLLM's RequestStateStats). `read_started` and
    `read_finished` bound the reading of KV from another engine, as this one's connector saw it.
    """

    engine: str
    role: str = "aggregated"
    sent: float | None = None
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    engine_times: list[float] = field(default_factory=list)
    queued: float | None = None
    started: float | None = None
    first_token: float | None = None
    read_started: float | None = None
    read_finished: float | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the engine did not compute: from its prefix cache or from another engine."""
    finish_reason: str | None = None
    handoff: Mapping[str, object] | None = None
    """vLLM's kv_transfer_params as the engine returned them."""
    alternatives: list[dict[int, float]] = field(default_factory=list)
    """Log-probabilities of the likeliest tokens at each position, where they were asked for."""


@dataclass(slots=True)
class Timeline:
    """One request from the moment it was due to its last token, with a leg for each engine that it was sent to.

    The legs of roles `prefill` (or `aggregated`) and `decode` are what the `prefill_…` and `decode_…` properties read;
    None where that stage did not happen. In aggregated mode both stages are one leg's, and there is no decode leg.
    The tokens are those of the leg that answers the client: a prefill leg's one token is discarded.
    """

    request: str
    prompt_sha256: str
    repeat: int
    scheduled: float
    prompt_tokens: int
    output_tokens_asked: int
    phase: Phase = "measured"
    class_name: str = ""
    legs: list[Leg] = field(default_factory=list)
    error: str | None = None

    @property
    def prefill(self) -> Leg | None:
        """The leg that computed the prompt."""
        return next((leg for leg in self.legs if leg.role != "decode"), None)

    @property
    def decode(self) -> Leg | None:
        """The leg that had the prompt's KV handed over."""
        return next((leg for leg in self.legs if leg.role == "decode"), None)

    @property
    def answer(self) -> Leg | None:
        """The leg whose tokens the client got."""
        return next((leg for leg in self.legs if leg.role != "prefill"), None)

    @property
    def sent(self) -> float:
        """When the client sent it; when it was due, where it never did."""
        first = self.legs[0].sent if self.legs else None
        return self.scheduled if first is None else first

    @property
    def prefill_engine(self) -> str | None:
        return self.prefill.engine if self.prefill else None

    @property
    def prefill_queued(self) -> float | None:
        return self.prefill.queued if self.prefill else None

    @property
    def prefill_started(self) -> float | None:
        """When the engine first scheduled the prompt."""
        return self.prefill.started if self.prefill else None

    @property
    def prefill_finished(self) -> float | None:
        """When the engine had the prompt's first token."""
        return self.prefill.first_token if self.prefill else None

    @property
    def prefill_cached_tokens(self) -> int | None:
        return self.prefill.cached_tokens if self.prefill else None

    @property
    def decode_engine(self) -> str | None:
        """The engine whose tokens the client got."""
        return self.answer.engine if self.answer else None

    @property
    def decode_sent(self) -> float | None:
        """When the client passed the KV's address on."""
        return self.decode.sent if self.decode else None

    @property
    def decode_queued(self) -> float | None:
        return self.decode.queued if self.decode else None

    @property
    def handoff_started(self) -> float | None:
        return self.decode.read_started if self.decode else None

    @property
    def handoff_finished(self) -> float | None:
        return self.decode.read_finished if self.decode else None

    @property
    def decode_started(self) -> float | None:
        """When the decode engine first scheduled the request, its KV cache loaded."""
        return self.decode.started if self.decode else None

    @property
    def decode_first_token(self) -> float | None:
        """When the decode engine had its first token, which the client had at `token_times[0]`."""
        return self.decode.first_token if self.decode else None

    @property
    def decode_cached_tokens(self) -> int | None:
        return self.decode.cached_tokens if self.decode else None

    @property
    def token_times(self) -> list[float]:
        return self.answer.token_times if self.answer else []

    @property
    def token_ids(self) -> list[int]:
        return self.answer.token_ids if self.answer else []

    @property
    def finished(self) -> float | None:
        """When the client had the last token."""
        return self.token_times[-1] if self.token_times else None

    @property
    def finish_reason(self) -> str | None:
        return self.answer.finish_reason if self.answer else None

    @property
    def complete(self) -> bool:
        """Finished without error and with exactly the tokens asked for."""
        return self.error is None and len(self.token_times) == self.output_tokens_asked

    @property
    def computed_on_decode(self) -> int | None:
        """Prompt tokens that the decode engine computed itself; None in aggregated mode."""
        cached = self.decode_cached_tokens
        return None if cached is None else self.prompt_tokens - cached


def add_reads(timelines: Iterable[Timeline], reads: Iterable[tuple[str, float, float]]) -> None:
    """Note in each decode leg when its KV was read: (engine's request id, started, finished) from the connector.

    vLLM appends a suffix of its own to a request's id; a request keeps its name before the last dash.
    """
    moments = {name: (start, end) for name, start, end in reads}
    moments |= {name.rpartition("-")[0]: span for name, span in moments.items()}
    for timeline in timelines:
        if timeline.decode is not None and (span := moments.get(timeline.request)):
            timeline.decode.read_started, timeline.decode.read_finished = span
