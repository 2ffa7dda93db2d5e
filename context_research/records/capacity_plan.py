"""capacity_plan.json: what each way to use the GPUs carries within the limits, by simulation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from context_research.records.base import Artifact, JsonObject, Record
from context_research.records.run import ErrorRecord, ModelRecord
from context_research.records.summary import Bound
from context_research.settings.workload import Slo


class CarriedRecord(Record):
    """Requests per second and device within one SLO; a bound is no figure."""

    rate: float
    bound: Bound


class CandidateRecord(Record):
    """A topology with a chunk size: what it carries within each SLO, in their order; none where it can't run."""

    name: str
    tensor_parallel: int
    chunk: int
    """engine.max_num_batched_tokens"""
    carried: tuple[CarriedRecord, ...]
    well: bool
    """Known by long windows: short ones, which all had, flatter."""
    problem: str


class CapacityPlanRecord(Artifact):
    kind: Literal["simulated"] = "simulated"
    plan_id: str
    created: str
    """UTC, ISO 8601."""
    command: tuple[str, ...]
    experiment: str
    model: ModelRecord
    settings: JsonObject
    device_profile: str
    calibrated: bool
    errors: dict[str, dict[str, ErrorRecord]] = Field(default_factory=dict)
    """The profile's: metric -> statistic -> how far simulated figures were from real ones."""
    devices: int
    slos: tuple[Slo, ...]
    candidates: tuple[CandidateRecord, ...]
    seconds: float
    """That the search took."""

    def ranked(self, number: int) -> list[CandidateRecord]:
        """Those that have a figure within the SLO of that number, the one that carries most first.

        Those that are known well come before those that are not, whatever short windows say of these.
        """
        able = [each for each in self.candidates if each.carried and each.carried[number].bound == "exact"]
        return sorted(able, key=lambda each: (not each.well, -each.carried[number].rate))
