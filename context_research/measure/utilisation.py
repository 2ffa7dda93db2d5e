"""What each role did: tokens a second at the measured load, and how much of the windows it had work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from context_research.measure.intervals import Span, covered
from context_research.measure.metrics import Repeat
from context_research.records.case import RoleRecord
from context_research.request import Timeline


def summarize(repeats: Sequence[Repeat]) -> dict[str, RoleRecord]:
    """Role -> `tokens_per_s` and `busy_share`, over all repeats together; empty where nothing was measured.

    `prefill` counts prompt tokens computed, `decode` tokens that reached the client, of the measured requests in their
    steady seconds. A role is busy while it has a request that its engine has scheduled, in the windows. In aggregated
    mode both are one engine's, and their times overlap.
    """
    if not any(repeat.timelines for repeat in repeats):
        return {}
    prefilled = [timeline for repeat in repeats for timeline in repeat.prefilled]
    computed = sum(timeline.prompt_tokens - (timeline.prefill_cached_tokens or 0) for timeline in prefilled)
    generated = sum(repeat.output_tokens for repeat in repeats)
    steady = sum(repeat.steady_seconds for repeat in repeats)
    windows = sum(repeat.seconds for repeat in repeats)

    def role(tokens: int, span: Callable[[Timeline], Span]) -> RoleRecord:
        busy = sum(covered(map(span, repeat.served), repeat.started, repeat.ended) for repeat in repeats)
        return RoleRecord(tokens_per_s=tokens / steady, busy_share=busy / windows)

    return {"prefill": role(computed, _prefill), "decode": role(generated, _decode)}


def _prefill(timeline: Timeline) -> Span:
    return timeline.prefill_started, timeline.prefill_finished


def _decode(timeline: Timeline) -> Span:
    return timeline.decode_started or timeline.prefill_finished, timeline.finished
