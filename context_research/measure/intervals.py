"""Time that spans cover inside a window."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[float | None, float | None]
"""Start and end of something, in perf_counter seconds; None where one of them did not happen."""


def most_at_once(spans: Iterable[Span]) -> int:
    """How many spans are open at once, at most; one that begins where another ends does not meet it."""
    level = most = 0
    for _, step in _changes(spans):
        level += step
        most = max(most, level)
    return most


def covered(spans: Iterable[Span], started: float, ended: float, at_least: int = 1) -> float:
    """Seconds between `started` and `ended` in which at least so many spans are open; unbounded spans count nowhere."""
    level, since, seconds = 0, started, 0.0
    for at, step in _changes(spans):
        if level >= at_least:
            seconds += max(0.0, min(at, ended) - max(since, started))
        level, since = level + step, at
    return seconds


def _changes(spans: Iterable[Span]) -> list[tuple[float, int]]:
    """Moments at which a span begins (1) or ends (-1), in order; at one moment ends come first."""
    return sorted(
        change for start, end in spans if start is not None and end is not None for change in ((start, 1), (end, -1))
    )
