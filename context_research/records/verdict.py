"""verdict.json: what a comparison says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from context_research.records.base import Artifact, Record
from context_research.records.run import ModelRecord

Outcome = Literal["better", "worse", "equivalent", "undecided"]
Unit = Literal["session", "repeat"]
"""What statistics count: sessions of an A/B, or the repeats of single runs."""


class PairsRecord(Record):
    """One figure of one case: its pairs, and what they say (compare/statistics.py, Verdict)."""

    arm: str
    """Whose `candidate` is."""
    case: str
    metric: str
    statistic: str
    unit: str
    lower_is_better: bool
    baseline: tuple[float | None, ...]
    candidate: tuple[float | None, ...]
    ratio: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    p_equivalent: float | None
    p_equivalent_adjusted: float | None
    p_sign_flip: float | None
    outcome: Outcome | None
    """None outside the family, and of runs that were not measured."""
    reason: str
    fragile: str
    pairs_needed: int | None


class SideRecord(Record):
    arm: str
    label: str
    runs: tuple[str, ...]


class VerdictRecord(Artifact):
    comparison: str
    unit: Unit
    experiment: str
    backend: str
    device: str
    model: ModelRecord
    sides: tuple[SideRecord, ...] = Field(min_length=2)
    """The first is the one that the others are held against."""
    planned_pairs: int | None = None
    looks: tuple[int, ...] = ()
    """Numbers of pairs after which it could have been stopped."""
    practical: float
    start_noise: float
    named_beforehand: bool = True
    noise_floor: str | None = None
    primary: tuple[PairsRecord, ...]
    descriptive: tuple[PairsRecord, ...]
    allowed_differences: dict[str, tuple[JsonValue, JsonValue]] = Field(default_factory=dict)
