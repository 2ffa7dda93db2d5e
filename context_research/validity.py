"""The checks that make a case count. Each gives pass, fail or n/a with its evidence; a failed one fails the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from context_research.engines.base import Counters
from context_research.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Check:
    """One check's result. `evidence` is one line with the figures behind it."""

    check: str
    status: Literal["pass", "fail", "n/a"]
    evidence: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def complete(asked: int, timelines: Sequence[Timeline]) -> Check:
    """Every request finished, without error, with exactly the tokens asked for.

    `timelines` may hold warm-up requests that failed: they are named, and count for none of the `asked`.
    """
    measured = [timeline for timeline in timelines if not timeline.warmup]
    done = sum(timeline.complete for timeline in measured)
    evidence = f"{done} of {asked} requests finished with the asked tokens"
    errors = Counter(timeline.error for timeline in timelines if timeline.error)
    if asked > len(measured):
        errors[f"{asked - len(measured)} never sent"] = 1
    for error, count in errors.most_common(3):
        evidence += f"; {count} × {error}" if count > 1 else f"; {error}"
    return Check("complete", "pass" if done == asked and not errors else "fail", evidence)


def disaggregated(
    timelines: Sequence[Timeline], decode: Counters | None, faults: Mapping[str, int], kv_bytes_per_token: int
) -> Check:
    """Decode computed one prompt token a request, the protocol's own; every other came by a transfer that worked.

    `decode` counts what the decode engine did for these requests; `faults` sums both engines' connectors'.
    """
    if decode is None:
        return Check("disaggregated", "n/a", "aggregated: prefill and decode run on one engine")
    if not timelines:
        return Check("disaggregated", "n/a", "no request was measured")
    prompt, count = sum(timeline.prompt_tokens for timeline in timelines), len(timelines)
    moved = sum(size for _, size in decode.transfers)
    wanted = sum((timeline.prompt_tokens - 1) * kv_bytes_per_token for timeline in timelines)
    recomputed = max((timeline.computed_on_decode or 0 for timeline in timelines), default=0)
    evidence = (
        f"{decode.prompt_external} of {prompt} prompt tokens external; at most {recomputed} a request computed on "
        f"decode (the protocol allows 1); {len(decode.transfers)} transfers for {count} requests; "
        f"{moved} bytes moved of at least {wanted}; faults: {dict(faults) or 'none'}"
    )
    good = (
        all(timeline.computed_on_decode is not None and timeline.computed_on_decode <= 1 for timeline in timelines)
        and decode.prompt_external >= prompt - count
        and len(decode.transfers) == count
        and moved >= wanted
        and not faults
    )
    return Check("disaggregated", "pass" if good else "fail", evidence)
