"""How long one step of an engine takes: implementations by name."""

from __future__ import annotations

from context_research.engines.simulated.profiles import DeviceProfile, Linear
from context_research.engines.simulated.step_time.base import StepTimeModel
from context_research.hardware.placement import Placement
from context_research.models.model import Model


def model_of(profile: DeviceProfile, model: Model, placement: Placement) -> StepTimeModel:
    """The profile's step times for one engine. Raises UsageProblem: model, role or system not covered."""
    # Each is imported where it is used: both need this module, and aiconfigurator's is an optional package.
    if isinstance(profile.step_time, Linear):
        from context_research.engines.simulated.step_time import linear

        return linear.of_profile(profile, profile.step_time, model, placement)
    from context_research.engines.simulated.step_time import aiconfigurator

    return aiconfigurator.of_profile(profile, profile.step_time, model, placement)
