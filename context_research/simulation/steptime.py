"""How long one step of an engine takes: an interface, and its implementations by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from context_research.devices import Placement
from context_research.models import Model
from context_research.simulation.batch import Batch
from context_research.simulation.profiles import DeviceProfile, Linear


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


def model_of(profile: DeviceProfile, model: Model, placement: Placement) -> StepTimeModel:
    """The profile's step times for one engine. Raises UsageProblem: model, role or system not covered."""
    # Each is imported where it is used: both need this module, and aiconfigurator's is an optional package.
    if isinstance(profile.step_time, Linear):
        from context_research.simulation import linear

        return linear.of_profile(profile, profile.step_time, model, placement)
    from context_research.simulation import aiconfigurator

    return aiconfigurator.of_profile(profile, profile.step_time, model, placement)
