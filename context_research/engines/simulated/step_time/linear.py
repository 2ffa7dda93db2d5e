"""Step times by a linear fit on real steps: seconds = the sum of coefficient × feature of the step's batch."""

from __future__ import annotations

from dataclasses import dataclass

from context_research.engines.batch import Batch
from context_research.engines.simulated.profiles import DeviceProfile, Fit, Linear
from context_research.engines.simulated.step_time.base import StepTime
from context_research.errors import UsageProblem
from context_research.hardware.placement import Placement
from context_research.models.model import Model

FEATURES = ("constant", "prefill_tokens", "prefill_pairs", "decode_requests", "decode_kv_tokens")
"""What a step's time is made of. Weights are read once a step (`constant`), matrix products grow with the tokens,
attention of a prefill with its query-key pairs, and of a decode with the KV tokens it reads."""


@dataclass(frozen=True, slots=True)
class LinearStepTime:
    """A Fit as a StepTimeModel."""

    fit: Fit

    def of(self, batch: Batch) -> StepTime:
        seconds = self.fit.coefficients.get("constant", 0.0)
        extrapolated = False
        for name in FEATURES[1:]:
            value = getattr(batch, name)
            seconds += self.fit.coefficients.get(name, 0.0) * value
            if name in self.fit.ranges:
                smallest, largest = self.fit.ranges[name]
                extrapolated |= not smallest <= value <= largest
        return StepTime(seconds, extrapolated)

    @property
    def contention(self) -> float | None:
        return self.fit.contention

    def describe(self) -> dict[str, object]:
        return {"source": "linear", "calibrated": True, **self.fit.model_dump(mode="json")}


def of_profile(profile: DeviceProfile, steps: Linear, model: Model, placement: Placement) -> LinearStepTime:
    """The fit for this engine: of the same model, dtype, role and number of devices. Raises UsageProblem."""
    wanted = (model.label, model.dtype, placement.spec.role, len(placement.devices))
    for fit in steps.fits:
        if key_of(fit) == wanted:
            return LinearStepTime(fit)
    raise UsageProblem(
        f"device profile {profile.name} has no step times for {_told(*wanted)}, only for "
        f"{'; '.join(_told(*key_of(fit)) for fit in steps.fits)}: add them from real runs with "
        "context-research calibrate RUN… --write FILE.yaml"
    )


def key_of(fit: Fit) -> tuple[str, str, str, int]:
    """What a fit is looked up by: model label, dtype, role, number of devices."""
    return fit.model, fit.dtype, fit.role, fit.devices


def _told(model: str, dtype: str, role: str, devices: int) -> str:
    return f"{model} in {dtype}, {role} on {devices} device{'s' * (devices != 1)}"
