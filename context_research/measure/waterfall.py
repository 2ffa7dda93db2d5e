"""Where a request's time to first token went, from the client's clock and the engines' own; see docs/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable

from context_research.measure import metrics
from context_research.records.case import Distribution
from context_research.request import Timeline

PARTS = {
    "client_wait": (("scheduled", "sent"),),
    "prefill_queue": (("sent", "prefill_started"),),
    "prefill": (("prefill_started", "prefill_finished"),),
    "handoff": (("handoff_started", "handoff_finished"),),
    "decode_queue": (("decode_sent", "handoff_started"), ("handoff_finished", "decode_started")),
    "first_decode_step": (("decode_started", "decode_first_token"),),
}
"""Name, and the moments of a timeline that bound it.

A queue begins when the client sends: an engine in the middle of a step takes a request in only after it, and its own
queueing time does not show that. On decode a request waits twice: to be taken in, and, its KV there, for the next step.
"""
UNATTRIBUTED = "unattributed"


def parts(timeline: Timeline) -> dict[str, float]:
    """Seconds of each part that happened; what no part covers is `unattributed`, so that all add up to TTFT."""
    found: dict[str, float] = {}
    for name, spans in PARTS.items():
        moments = [(getattr(timeline, first), getattr(timeline, last)) for first, last in spans]
        if all(start is not None and end is not None for start, end in moments):
            found[name] = sum(end - start for start, end in moments)
    return found | {UNATTRIBUTED: metrics.ttft(timeline) - sum(found.values())}


def unattributed_share(timeline: Timeline) -> float:
    """What no part covers, as a share of TTFT."""
    return parts(timeline)[UNATTRIBUTED] / metrics.ttft(timeline)


def summarize(timelines: Iterable[Timeline]) -> dict[str, Distribution]:
    """Part -> unit, count, mean and percentiles over completed requests, as every metric's."""
    samples: dict[str, list[float]] = {}
    for timeline in timelines:
        for name, seconds in parts(timeline).items():
            samples.setdefault(name, []).append(seconds)
    return {name: metrics.summarize(values, "s") for name, values in samples.items()}
