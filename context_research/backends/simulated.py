"""Simulated engines: vLLM's own scheduler in virtual time. No measurement; allowed by an explicit opt-in alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from context_research.backends.base import Backend, Labels
from context_research.backends.vllm import NOT_INSTALLED, check_tensor_parallel
from context_research.engines.base import Engine, Evidence
from context_research.engines.loop import EventLoop
from context_research.engines.simulated import modelled, profiles
from context_research.engines.simulated.machine import SimulatedMachine
from context_research.engines.simulated.step_time import model_of
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from context_research.hardware.placement import Placement
from context_research.models.model import Model
from context_research.records.case import CaseRecord
from context_research.records.run import EngineRecord, RunRecord, SimulationRecord
from context_research.settings.options import SIMULATED_OPT_IN

_NO_ENGINE = "simulated: no engine ran"


class SimulatedLabels(Labels):
    """Says with every figure that it is a model's, and what priced the steps."""

    mark = "SIMULATED"
    notice = "SIMULATED, no engine runs"
    figures = "Simulated"
    engine = ""

    def device(self, run: RunRecord) -> str:
        return f"{self.mark} {self.row_device(run.device, run.engines)}"

    def row_device(self, device: str, engines: Sequence[EngineRecord]) -> str:
        """``h200 (aiconfigurator-core 0.12.0, not calibrated)``"""
        del device
        if (simulation := _simulation(engines)) is None:
            return "no engine started"
        steps = simulation.step_times
        return f"{simulation.device_profile} ({steps.package or steps.source}, {_calibrated(simulation)})"

    def indices(self, run: RunRecord) -> str:
        del run
        return "–"

    def warning(self, engines: Sequence[EngineRecord], cases: Iterable[CaseRecord]) -> str:
        """No engine ran, what priced the steps, what is extrapolated."""
        parts = ["> **SIMULATED: no engine ran, these are a model's figures.** vLLM's own scheduler, in virtual time."]
        if simulation := _simulation(engines):
            steps = simulation.step_times
            versions = ", ".join(word for word in (steps.package, steps.kernels, steps.vllm) if word)
            parts.append(
                f"Device profile {simulation.device_profile} {simulation.digest}; step times by "
                f"{steps.source}{f' ({versions})' if versions else ''}, {_calibrated(simulation)}."
            )
        beyond = [f"{case.name} ({case.extrapolated_share:.0%} of steps)" for case in cases if case.extrapolated_share]
        if beyond:
            parts.append(f"**Extrapolated**, beyond what the step times are known for: {', '.join(beyond)}.")
        return " ".join(parts)

    def facts(self, run: RunRecord) -> dict[str, object]:
        """The profile that priced the steps; on the machine itself nothing was measured."""
        simulation = _simulation(run.engines)
        return {
            "hardware.gpus": [],
            "hardware.cpu": (None, 0),
            "hardware.driver": None,
            "hardware.devices": len(run.used_devices),
            **({"device_profile": f"{simulation.device_profile} {simulation.digest}"} if simulation else {}),
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
        """Refuse settings that are not modelled, and engines whose steps the profile has no times of."""
        modelled.check(self.settings, self.simulated.profile)
        for placement in self.placements:
            if self.settings.device == "cuda" and len(placement.devices) > 1:
                check_tensor_parallel(placement, self.settings)
                if any(set(other.devices) & set(placement.devices) for other in self.placements if other != placement):
                    raise UsageProblem(
                        f"engine {placement.spec.name} would share GPUs {list(placement.devices)}: tensor-parallel "
                        "engines are simulated on GPUs of their own (--devices)"
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


def _simulation(engines: Sequence[EngineRecord]) -> SimulationRecord | None:
    """What the run's engines say of their simulation; None where none had started."""
    return next((engine.simulated for engine in engines if engine.simulated), None)


def _calibrated(simulation: SimulationRecord) -> str:
    return "calibrated on real runs" if simulation.calibrated else "not calibrated"
