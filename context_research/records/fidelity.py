"""fidelity-*.json: simulated requests against the real ones. Times in seconds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from context_research.records.base import Artifact, Record
from context_research.records.run import ModelRecord, StepTimesRecord

Direction = Literal["lower", "higher", "equivalent", "undecided", "not judged"]
"""What real runs say of a candidate's latency beside its baseline's."""


class ProfileRecord(Record):
    name: str
    calibrated: bool
    fitted_on: tuple[str, ...]
    provenance: dict[str, str]


class ArmRecord(Record):
    label: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    steps: int
    extrapolated: int
    step_times: tuple[StepTimesRecord, ...]


class FigureRecord(Record):
    """One figure of one case over all samples of its arm's runs: simulated ÷ real − 1 is its `error`, negative where
    the simulation is too fast, and `passed` whether that is within `bar`. None: too few samples."""

    arm: str
    case: str
    metric: str
    statistic: str
    count: int
    simulated_count: int
    real: float | None
    simulated: float | None
    bar: float
    error: float | None
    passed: bool | None


class PartRecord(Record):
    """One part of a case's TTFT, p50; None where it did not happen, or not often enough."""

    arm: str
    case: str
    part: str
    real: float | None
    simulated: float | None


class SignRecord(Record):
    """Candidate ÷ baseline, real and simulated."""

    case: str
    metric: str
    baseline: str
    candidate: str
    real: float | None
    simulated: float | None
    outcome: Direction
    """What the real ones say."""
    how: str
    """What that rests on."""
    practical: float
    same_sign: bool | None
    """Whether candidate − baseline has one sign, real and simulated; None where one has no value."""
    agrees: bool | None
    """Whether the simulation says what the real ones do; None where those decide nothing."""


class CountsRecord(Record):
    figures: int
    passed: int
    missed: int
    signs: dict[str, int]


class FidelityRecord(Artifact):
    simulated: Literal[True] = True
    experiment: str
    device: str
    model: ModelRecord
    versions: dict[str, str | None]
    profile: ProfileRecord
    in_sample: bool
    """The profile was fitted on these very runs."""
    seen: tuple[str, ...]
    extrapolated_share: float = Field(ge=0, le=1)
    arms: tuple[ArmRecord, ...] = Field(min_length=1)
    figures: tuple[FigureRecord, ...]
    waterfall: tuple[PartRecord, ...]
    signs: tuple[SignRecord, ...]
    no_signs: str | None
    """Why there are none."""
    counts: CountsRecord
