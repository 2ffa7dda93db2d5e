"""ab.json: an A/B's plan, and how far it got."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from context_research.records.base import Artifact, JsonObject, Record

Arm = Literal["baseline", "candidate"]


class PlanRecord(Record):
    """What was asked (compare/ab/plan.py). `settings`: arm -> as resolved before the first session, seed apart."""

    experiment: str
    folder: str
    """Of the experiment, from the rootdir."""
    baseline: str
    candidate: str
    pairs: int = Field(ge=1)
    seed: int
    repeats: int
    pytest_options: tuple[str, ...]
    primary: tuple[str, ...] = Field(min_length=1)
    practical: float
    allow_different: tuple[str, ...]
    device_groups: tuple[tuple[int, ...], ...] = ()
    settings: dict[Arm, JsonObject]


class SessionRecord(Record):
    """One session of an arm. `devices`: GPUs or cores that it sees, of this machine's; None: all."""

    pair: int = Field(ge=0)
    arm: Arm
    seed: int
    run_id: str | None = None
    status: Literal["planned", "running", "completed", "failed"] = "planned"
    seconds: float | None = None
    devices: tuple[int, ...] | None = None


class AbRecord(Artifact):
    ab_id: str = Field(min_length=1)
    status: Literal["running", "stopped", "completed"]
    reason: str | None = None
    pid: int | None
    started: str
    finished: str | None
    plan: PlanRecord
    sessions: tuple[SessionRecord, ...]
