"""How long one step of an engine takes: an interface, and its implementations by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from context_research.engines.batch import Batch


@dataclass(frozen=True, slots=True)
class StepTime:
    """`seconds` that a step takes on an engine that has its machine to itself; `extrapolated` outside what is known."""

    seconds: float
    extrapolated: bool


class StepTimeModel(Protocol):
    """Step times of one engine. Deterministic: the same batch takes the same time."""

    @property
    def contention(self) -> float | None:
        """What another engine at work on the device (of CPUs: the machine) adds to a step's time; None: not known."""

    def of(self, batch: Batch) -> StepTime:
        """The time of one step."""

    def describe(self) -> dict[str, object]:
        """Plain data for artifacts: source, versions, calibrated, what it was fitted on."""
