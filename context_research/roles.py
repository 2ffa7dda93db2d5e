"""What each role did in the measured windows: tokens a second, and how much of the time it had work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from context_research.metrics import Repeat
from context_research.spans import Span, covered
from context_research.timeline import Timeline


def summarize(repeats: Sequence[Repeat]) -> dict[str, dict[str, float]]:
    """Role -> `tokens_per_s` and `busy_share`, over all windows together; empty where nothing was measured.

    `prefill` counts prompt tokens computed, at the moment they were done; `decode` tokens that reached the client. A
    role is busy while it has a request that its engine has scheduled. In aggregated mode both are one engine's, and
    their times overlap.
    """
    seconds = sum(repeat.seconds for repeat in repeats)
    if seconds <= 0:
        return {}
    prefilled = sum(_prefilled(repeat) for repeat in repeats)
    decoded = sum(repeat.output_tokens for repeat in repeats)
    return {
        "prefill": {
            "tokens_per_s": prefilled / seconds,
            "busy_share": sum(_busy(repeat, map(_prefill, repeat.served)) for repeat in repeats) / seconds,
        },
        "decode": {
            "tokens_per_s": decoded / seconds,
            "busy_share": sum(_busy(repeat, map(_decode, repeat.served)) for repeat in repeats) / seconds,
        },
    }


def _prefilled(repeat: Repeat) -> int:
    done = (t for t in repeat.served if t.prefill_finished and repeat.started <= t.prefill_finished <= repeat.ended)
    return sum(timeline.prompt_tokens - (timeline.prefill_cached_tokens or 0) for timeline in done)


def _prefill(timeline: Timeline) -> Span:
    return timeline.prefill_started, timeline.prefill_finished


def _decode(timeline: Timeline) -> Span:
    return timeline.decode_started or timeline.prefill_finished, timeline.finished


def _busy(repeat: Repeat, spans: Iterable[Span]) -> float:
    """Seconds of the repeat's window that at least one span covers."""
    return covered(spans, repeat.started, repeat.ended)
