"""Whether the client's moments can be true: what an engine did, and when, is known from the engine itself.

Both read one clock (`time.perf_counter()` is CLOCK_MONOTONIC on Linux). A token can't reach the client before its
engine had it. A client that keeps up has it before the engine's next one: an engine computes for longer than a token
takes to arrive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from context_research.measure.checks.outcomes import judged, not_applicable
from context_research.measure.intervals import most_at_once
from context_research.records.case import CheckRecord
from context_research.request import Leg, Timeline

READING = 1e-4
"""Seconds by which a moment may be off as it was written down."""
ARRIVES, ARRIVES_OF_EACH = 4e-3, 4e-5
"""Seconds that the quickest tenth of tokens may take from the engine to the client, more for each in flight, as one
thread hands out a step's tokens, and more by what the client's loop was late. Seen on CPU: 0.3 to 1 ms; 3.5 on one
with three times its work."""
OF_TTFT = 0.1
"""Of the median TTFT: what the quickest tenth of first tokens may take, if that is more."""
AFTER_NEXT, LATE_SHARE, LATE_FEW = 1e-3, 0.05, 3
"""Tokens that came this many seconds after the engine's next one, and more by what the client's loop was late, are
late themselves: so many of all, or so few, may be."""


def judge(timelines: Sequence[Timeline], in_flight: int | None, loop_lag: float = 0.0) -> CheckRecord:
    """The check `clock`. `timelines` have all legs' moments; `in_flight` is the most that the load allows, if it does.

    `loop_lag`: seconds by which the client's event loop came round late, at p99; the check `client` judges it. Every
    leg of every request counts, whatever its phase.
    """
    legs = [leg for timeline in timelines for leg in timeline.legs if leg.token_times and leg.first_token is not None]
    if not legs:
        return not_applicable("clock", "no engine told when it had a token")
    delays = np.array([delay for leg in legs for delay in _delays(leg)])
    behind = np.array([late for leg in legs for late in _after_next(leg)])
    late, most = int((behind > AFTER_NEXT + loop_lag).sum()), in_flight or _most(timelines)
    first = [leg.token_times[0] - leg.first_token for leg in legs if leg.first_token is not None]
    quick, soon = (float(np.quantile(some, 0.1)) for some in (delays, first))
    allowed = ARRIVES + ARRIVES_OF_EACH * most + loop_lag
    waited = [each.token_times[0] - each.scheduled for each in timelines if each.token_times]
    allowed_first = max(allowed, OF_TTFT * float(np.median(waited))) if waited else allowed
    evidence = (
        f"{len(delays)} tokens came {_ms(delays.min())} to {_ms(delays.max())} after the engine had them, a tenth of "
        f"them within {_ms(quick)} (at most {_ms(allowed)}), of first ones {_ms(soon)} ({_ms(allowed_first)}); "
        f"{late} of {len(behind)} after the engine's next one"
    )
    problems = list[str]()
    if delays.min() < -READING:
        problems.append("a token was at the client before its engine had it")
    if quick > allowed or soon > allowed_first:
        problems.append("the client's times are late by as much")
    if late > max(LATE_FEW, LATE_SHARE * len(behind)):
        problems.append("tokens are late by more than a step")
    if in_flight is not None and (held := _most(timelines)) > in_flight:
        problems.append(f"{held} requests were in flight at once, where the load has {in_flight}")
    problems += _disordered(timelines)
    return judged("clock", not problems, "; ".join([evidence, *problems[:3]]))


def _delays(leg: Leg) -> NDArray[np.float64]:
    """From the engine to the client, of each token; of the first alone where the engine tells no more."""
    had = leg.engine_times or [at for at in (leg.first_token,) if at is not None]
    return np.subtract(leg.token_times[: len(had)], had, dtype=np.float64)


def _after_next(leg: Leg) -> NDArray[np.float64]:
    """How long after the engine's next token each one came; negative: before it. Tokens of one step have one next."""
    had = np.array(leg.engine_times)
    times = np.array(leg.token_times[: len(had)])
    following = np.searchsorted(had, had, side="right")
    known = following < len(had)
    late: NDArray[np.float64] = times[known] - had[following[known]]
    return late


def _disordered(timelines: Sequence[Timeline]) -> Iterator[str]:
    """The first moment of each request that is before its cause."""
    for timeline in timelines:
        moments: list[tuple[str, float | None]] = [("due", timeline.scheduled)]
        for leg in timeline.legs:
            own = [("sent", leg.sent), ("queued", leg.queued), ("started", leg.started), ("done", leg.first_token)]
            moments += [(f"{what} ({leg.engine})", at) for what, at in own]
            moments += [(f"answered ({leg.engine})", leg.token_times[0] if leg.token_times else None)]
        known = [(what, at) for what, at in moments if at is not None]
        for (before, first), (after, second) in pairwise(known):
            if second < first - READING:
                yield f"{timeline.request} was {after} {_ms(first - second)} before it was {before}"
                break


def _most(timelines: Sequence[Timeline]) -> int:
    """Requests between their sending and their last token, at most at once, in any one pass."""
    passes = {timeline.repeat for timeline in timelines}
    spans = [
        [(each.sent, each.finished) for each in timelines if each.repeat == one and each.finished] for one in passes
    ]
    return max((most_at_once(one) for one in spans), default=0)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
