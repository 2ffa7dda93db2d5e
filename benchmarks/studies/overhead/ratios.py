"""Paired ratios: ours ÷ the other side's, one for each pair of runs made back to back, and what they prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["holds", "MISSED", "undecided"]
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Bar:
    """What the median ratio must lie within, both ends included."""

    low: float = 0.0
    high: float = float("inf")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"≥ {self.low:g}"
        return f"≤ {self.high:g}" if self.low == 0 else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both sides in every pair, in `unit`; without a bar it only informs.

    `late`: in how many of the pairs our validity check `client` failed; None where that is not looked at.
    """

    name: str
    load: str
    unit: str
    ours: list[float]
    other: list[float]
    bar: Bar | None = None
    late: int | None = None

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.other, strict=True)]

    @property
    def median(self) -> float:
        return float(np.median(self.ratios))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the median ratio, the pairs resampled; its random numbers are fixed."""
        found = stats.bootstrap(
            (self.ratios,),
            np.median,
            confidence_level=0.95,
            n_resamples=_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        return float(found.low), float(found.high)

    @property
    def verdict(self) -> Verdict:
        """`holds` or `MISSED` where the whole interval lies within the bar or outside; else the pairs don't tell."""
        (low, high), bar = self.interval, self.bar or Bar()
        if bar.low <= low and high <= bar.high:
            return "holds"
        return "MISSED" if high < bar.low or low > bar.high else "undecided"

    def as_json(self) -> dict[str, object]:
        """Plain data, each pair's values in it."""
        return {
            "name": self.name,
            "load": self.load,
            "unit": self.unit,
            "ours": self.ours,
            "other": self.other,
            "ratios": self.ratios,
            "median": self.median,
            "interval_95": self.interval,
            "bar": str(self.bar) if self.bar else None,
            "verdict": self.verdict if self.bar else None,
            "client_failed": self.late,
        }
