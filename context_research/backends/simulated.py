"""Simulated engines: vLLM's own scheduler in virtual time. No measurement; allowed by an explicit opt-in alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from context_research.backends.base import Backend, Labels, Record, extrapolated
from context_research.backends.vllm import NOT_INSTALLED
from context_research.engines.base import Engine, Evidence
from context_research.engines.loop import EventLoop
from context_research.engines.simulated import profiles
from context_research.engines.simulated.machine import SimulatedMachine
from context_research.engines.simulated.step_time import model_of
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from context_research.hardware.placement import Placement
from context_research.models.model import Model
from context_research.settings.options import SIMULATED_OPT_IN

_NO_ENGINE = "simulated: no engine ran"


class SimulatedLabels(Labels):
    """Says with every figure that it is a model's, and what priced the steps."""

    mark = "SIMULATED"
    notice = "SIMULATED, no engine runs"
    figures = "Simulated"
    engine = ""

    def device(self, metadata: Record) -> str:
        return f"{self.mark} {self.row_device(metadata['device'], metadata['engines'])}"

    def row_device(self, device: str, engines: Sequence[Record]) -> str:
        """``h200 (aiconfigurator-core 0.12.0, not calibrated)``"""
        del device
        if (description := _simulated(engines)) is None:
            return "no engine started"
        steps = description["step_times"]
        source = steps.get("package") or steps["source"]
        return f"{description['device_profile']} ({source}, {_calibrated(description)})"

    def indices(self, metadata: Record) -> str:
        del metadata
        return "–"

    def warning(self, engines: Sequence[Record], cases: Iterable[Record]) -> str:
        """No engine ran, what priced the steps, what is extrapolated."""
        parts = ["> **SIMULATED: no engine ran, these are a model's figures.** vLLM's own scheduler, in virtual time."]
        if description := _simulated(engines):
            steps = description["step_times"]
            versions = ", ".join(str(steps[key]) for key in ("package", "kernels", "vllm") if steps.get(key))
            parts.append(
                f"Device profile {description['device_profile']} {description['digest']}; step times by "
                f"{steps['source']}{f' ({versions})' if versions else ''}, {_calibrated(description)}."
            )
        if beyond := [f"{case['name']} ({extrapolated(case):.0%} of steps)" for case in cases if extrapolated(case)]:
            parts.append(f"**Extrapolated**, beyond what the step times are known for: {', '.join(beyond)}.")
        return " ".join(parts)

    def facts(self, metadata: Record) -> dict[str, object]:
        """The profile that priced the steps; on the machine itself nothing was measured."""
        used = {device for engine in metadata["engines"] for device in engine["devices"]}
        description = _simulated(metadata["engines"])
        profile = f"{description['device_profile']} {description['digest']}" if description else None
        return {
            "hardware.gpus": [],
            "hardware.cpu": (None, 0),
            "hardware.driver": None,
            "hardware.devices": len(used),
            **({"device_profile": profile} if profile else {}),
        }


class SimulatedBackend(Backend):
    """Engines on one simulated machine, which is this run's own."""

    name = "simulated"
    labels = SimulatedLabels()
    measured = False
    needs_weights = False
    needs_own_devices = False
    absent = dict.fromkeys(
        (Evidence.WALL_TIME, Evidence.ENERGY, Evidence.LOG, Evidence.OUTPUTS, Evidence.ALTERNATIVES), _NO_ENGINE
    )

    @property
    def marker(self) -> str:
        return "simulated"

    @cached_property
    def simulated(self) -> SimulatedMachine:
        return SimulatedMachine(profiles.load(str(self.settings.device_profile)))

    @property
    def machine(self) -> Machine:
        return self.simulated.devices

    @property
    def loop(self) -> EventLoop:
        return self.simulated.loop

    @property
    def evidence(self) -> frozenset[Evidence]:
        return frozenset()

    def check(self) -> None:
        """No engine touches a device, and no KV is moved: vLLM's scheduler is all that must be here."""
        if find_spec("vllm") is None:
            raise UsageProblem(f"{NOT_INSTALLED}; the simulated backend runs its scheduler")
        if self.settings.engine.batch_invariant:
            raise UsageProblem("engine.batch_invariant: no device profile has times of batch-invariant kernels")

    def check_engines(self, model: Model) -> None:
        """Refuse tensor parallelism, and engines whose steps the profile has no times of."""
        for placement in self.placements:
            if self.settings.device == "cuda" and len(placement.devices) > 1:
                raise UsageProblem(
                    f"engine {placement.spec.name} would get GPUs {list(placement.devices)}: tensor parallelism is not "
                    "simulated, give one GPU for each engine (--devices)"
                )
            model_of(self.simulated.profile, model, placement)

    def make_engine(self, model: Model, placement: Placement, log: Path) -> Engine:
        from context_research.engines.simulated.engine import SimulatedEngine

        return SimulatedEngine(self.settings, model, placement, log, self.simulated)

    def joules(self) -> float | None:
        return None


def require_opt_in() -> None:
    """Raises UsageProblem unless the simulated backend is allowed, by exactly 1."""
    if (given := os.environ.get(SIMULATED_OPT_IN)) != "1":
        told = f" (it is {given!r})" if given else ""
        raise UsageProblem(f"backend simulated makes no measurement: it needs {SIMULATED_OPT_IN}=1, exactly{told}")


def _simulated(engines: Sequence[Record]) -> Record | None:
    """What the run's engines say of their simulation; None where none had started."""
    return next((engine["simulated"] for engine in engines if "simulated" in engine), None)


def _calibrated(description: Record) -> str:
    return "calibrated on real runs" if description["calibrated"] else "not calibrated"
