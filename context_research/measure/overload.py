"""Whether a load was more than its engines carry: then its backlog grows for as long as it lasts.

Above capacity there is no steady state, and a latency says how long the run was. The test errs near capacity, both
ways, and more with few requests: docs/results/overload.md has how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from context_research.measure.repeat import Repeat

_BATCHES = 10
"""Parts of the window whose means are regressed on time: neighbours in a part depend on each other."""
_PER_BATCH = 20
_P = 0.01
_SHARE, _LEAST = 0.04, 5.0
"""The least growth that counts: of the rate at which requests were due, and in requests over the window."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the requests in the system, due and not yet ended, grew over one window.

    `slope` in requests a second; `p` of a one-sided t-test of it against 0 on the means of the window's tenths.
    """

    slope: float
    p: float
    due_per_s: float
    seconds: float

    @property
    def grew(self) -> bool:
        """By a twenty-fifth of what was due or more, by some requests, and by more than chance."""
        least = max(_SHARE * self.due_per_s, _LEAST / self.seconds)
        return self.p <= _P and self.slope >= least


def backlog(repeat: Repeat) -> Backlog:
    """Of a timed load's pass. Requests that failed or never ended stay in it."""
    due = np.sort([timeline.scheduled for timeline in repeat.served])
    ended = np.sort([timeline.finished for timeline in repeat.served if timeline.complete])
    moments = np.linspace(repeat.started, repeat.ended, _BATCHES * _PER_BATCH, endpoint=False)
    level = np.searchsorted(due, moments, "right") - np.searchsorted(ended, moments, "right")
    means, middles = (values.reshape(_BATCHES, _PER_BATCH).mean(axis=1) for values in (level, moments))
    rate = sum(repeat.asked.values()) / repeat.seconds
    if np.ptp(means) == 0:
        return Backlog(0.0, 1.0, rate, repeat.seconds)
    line = stats.linregress(middles, means, alternative="greater")
    return Backlog(float(line.slope), float(line.pvalue), rate, repeat.seconds)


def overloaded(backlogs: Sequence[Backlog]) -> bool:
    """Whether the backlog grew in most of a case's passes."""
    return sum(each.grew for each in backlogs) * 2 > len(backlogs)
