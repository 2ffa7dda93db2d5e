"""Whether a load was more than its engines carry: then its backlog grows for as long as it lasts.

Above capacity there is no steady state, and a latency says how long the run was. The test errs near capacity, both
ways, and more with few requests: docs/results/overload.md has how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from scipy import stats

from context_research.measure.repeat import Repeat
from context_research.measure.requests import e2e
from context_research.request import Timeline

_BATCHES = 10
"""Parts of the window whose means are regressed on time: neighbours in a part depend on each other."""
_PER_BATCH = 20
_P = 0.01
_SHARE, _LEAST = 0.04, 5.0
"""The least growth that counts: of the rate at which requests were due, and in requests over the window."""


@dataclass(frozen=True, slots=True)
class Growth:
    """By how many requests a second a number of requests grew over a window; `p` of a one-sided t-test against 0."""

    slope: float
    p: float

    def counts(self, least: float) -> bool:
        """Whether it is more than chance, and at least so much."""
        return self.p <= _P and self.slope >= least


@dataclass(frozen=True, slots=True)
class Backlog:
    """How one window's requests piled up: those `in_flight`, due and not yet ended, and of them those that are still
    `waiting` for their first token.

    `built_up`: the load had, before the window. Where requests take long, they accumulate on engines that keep up; then
    nothing waits.
    """

    in_flight: Growth
    waiting: Growth
    due_per_s: float
    seconds: float
    built_up: bool

    @property
    def grew(self) -> bool:
        """By a twenty-fifth of what was due or more, by some requests, and by more than chance."""
        least = max(_SHARE * self.due_per_s, _LEAST / self.seconds)
        return self.in_flight.counts(least) and (self.built_up or self.waiting.counts(least))


def backlog(repeat: Repeat) -> Backlog:
    """Of a timed load's pass. Requests that failed or never ended stay in it."""
    first = [timeline.token_times[0] for timeline in repeat.served if timeline.token_times]
    ended = [timeline.token_times[-1] for timeline in repeat.served if timeline.complete]
    before = [timeline for timeline in repeat.served if timeline.scheduled < repeat.started]
    warmup = repeat.started - min((timeline.scheduled for timeline in before), default=repeat.started)
    return Backlog(
        in_flight=_growth(repeat, ended),
        waiting=_growth(repeat, first),
        due_per_s=repeat.requests / repeat.seconds,
        seconds=repeat.seconds,
        built_up=bool(before) and takes([timeline for timeline in before if timeline.complete]) <= warmup,
    )


def takes(timelines: Sequence[Timeline]) -> float:
    """Seconds that requests take: the median over what is in flight, where long ones weigh more. inf without any."""
    spans = np.sort([e2e(timeline) for timeline in timelines])
    held = np.cumsum(spans)
    return float(spans[np.searchsorted(held, held[-1] / 2)]) if spans.size else inf


def overloaded(backlogs: Sequence[Backlog]) -> bool:
    """Whether the backlog grew in most of a case's passes."""
    return sum(each.grew for each in backlogs) * 2 > len(backlogs)


def _growth(repeat: Repeat, gone: Sequence[float]) -> Growth:
    """Of the requests that were due and not yet `gone`: the means of the window's tenths, regressed on time."""
    due = np.sort([timeline.scheduled for timeline in repeat.served])
    moments = np.linspace(repeat.started, repeat.ended, _BATCHES * _PER_BATCH, endpoint=False)
    level = np.searchsorted(due, moments, "right") - np.searchsorted(np.sort(gone), moments, "right")
    means, middles = (values.reshape(_BATCHES, _PER_BATCH).mean(axis=1) for values in (level, moments))
    if np.ptp(means) == 0:
        return Growth(0.0, 1.0)
    line = stats.linregress(middles, means, alternative="greater")
    return Growth(float(line.slope), float(line.pvalue))
