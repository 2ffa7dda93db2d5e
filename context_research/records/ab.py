"""ab.json: an A/B's plan, and how far it got."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from context_research.records.base import Artifact, JsonObject, Record


class PlanRecord(Record):
    """What was asked (compare/ab/plan.py). `settings`: arm -> as resolved before the first session, seed apart."""

    experiment: str
    folder: str
    """Of the experiment, from the rootdir."""
    arms: dict[str, str] = Field(min_length=2)
    """Name -> serving mode or file, then options."""
    against: str
    """The arm that each other one is held against."""
    pairs: int = Field(ge=1)
    """The most there will be; a pair is one session of each arm, with one seed."""
    looks: tuple[int, ...] = ()
    """Numbers of pairs after which all is judged, and it ends if all is decided; empty: after the last pair alone."""
    seed: int
    repeats: int
    pytest_options: tuple[str, ...]
    primary: tuple[str, ...] = Field(min_length=1)
    practical: float
    allow_different: tuple[str, ...]
    device_groups: tuple[tuple[int, ...], ...] = ()
    find_rates: bool = False
    """Whether the rates of its cases are searched for before the first session."""
    settings: dict[str, JsonObject]

    @model_validator(mode="after")
    def _check_against(self) -> Self:
        if self.against not in self.arms:
            raise ValueError(f"against {self.against!r}: no such arm; there are {', '.join(self.arms)}")
        return self


class SessionRecord(Record):
    """One session of an arm. `devices`: GPUs or cores that it sees, of this machine's; None: all."""

    pair: int = Field(ge=0)
    arm: str
    seed: int
    run_id: str | None = None
    status: Literal["planned", "running", "completed", "failed"] = "planned"
    seconds: float | None = None
    devices: tuple[int, ...] | None = None


class AbRecord(Artifact):
    """Sessions that are still planned in a completed one were not needed: it ended at a look."""

    ab_id: str = Field(min_length=1)
    status: Literal["running", "stopped", "completed"]
    reason: str | None = None
    pid: int | None
    started: str
    finished: str | None
    plan: PlanRecord
    rates: tuple[float, ...] = ()
    """That sessions measure in place of the settings': found by a search before the first one, or extended after it."""
    extended: int = Field(default=0, ge=0, exclude_if=lambda times: not times)
    """Times that the rates were, as a capacity of the first pair lay beyond them."""
    sessions: tuple[SessionRecord, ...]
