"""One request's latencies. Definitions and their sources: docs/metrics.md."""

from __future__ import annotations

import numpy as np

from context_research.request import Timeline
from context_research.settings.workload import Slo


def ttft(timeline: Timeline) -> float:
    """First token at the client − scheduled. From the scheduled time, so that a client that sends late shows it."""
    return timeline.token_times[0] - timeline.scheduled


def tpot(timeline: Timeline) -> float | None:
    """(last token − first token) / (output tokens − 1); None where there is one token. DistServe's TPOT."""
    times = timeline.token_times
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def itl(timeline: Timeline) -> list[float]:
    """Gaps between consecutive tokens at the client; tokens of one chunk are 0 apart."""
    return [float(gap) for gap in np.diff(timeline.token_times)]


def stall(timeline: Timeline) -> float | None:
    """The longest gap between two tokens; None where there is one token."""
    return max(itl(timeline), default=None)


def e2e(timeline: Timeline) -> float:
    """Last token at the client − scheduled."""
    return timeline.token_times[-1] - timeline.scheduled


def met(timeline: Timeline, slo: Slo) -> bool:
    """Whether it completed and met every objective given; with one token there is no TPOT and no stall to miss."""
    if not timeline.complete:
        return False
    found = {"ttft": ttft(timeline), "tpot": tpot(timeline), "e2e": e2e(timeline), "stall": stall(timeline)}
    return all((found[name] or 0.0) <= limit for name, limit in slo.limits.items())
