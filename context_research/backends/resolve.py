"""Which backend a run has: real vLLM, strictly; a simulated one only where that is allowed, and then it says so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from context_research.backends.registry import BACKENDS, backend_of
from context_research.backends.simulated import SimulatedBackend, require_opt_in
from context_research.backends.vllm import VllmBackend
from context_research.engines.simulated import profiles
from context_research.errors import UsageProblem
from context_research.hardware import devices
from context_research.settings import sources
from context_research.settings.experiments import SHIPPED
from context_research.settings.options import SIMULATED_OPT_IN
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer, Resolved


def resolve(experiment: str, layers: Sequence[Layer], configs: Path = SHIPPED, root: Path | None = None) -> Resolved:
    """The run's settings, its backend decided; `configs` and `root` as `sources.resolve` has them.

    `auto`, the default, is the real one; a device profile asks for the simulated one, which `auto` also falls back to
    where it is allowed and the real one can't start. Raises UsageProblem.
    """
    asked = next((layer.values["backend"] for layer in reversed(layers) if "backend" in layer.values), "auto")
    given = [_without_auto(layer) for layer in layers]
    resolved = sources.resolve(experiment, given, *devices.detect(), configs, root)
    _check_name(resolved)
    chosen, problem = resolved.settings, None
    if chosen.backend == SimulatedBackend.name or chosen.device_profile is not None:
        if asked == VllmBackend.name:
            raise UsageProblem("a device profile is for the simulated backend: leave --device-profile or --backend out")
        require_opt_in()
    else:
        problem = _cannot_start(chosen) if asked == "auto" and os.environ.get(SIMULATED_OPT_IN) == "1" else None
        if problem is None:
            return resolved
    named = chosen.device_profile or profiles.of_machine(chosen.device, _gpus())
    if named is None:
        told = f"{problem} (nor is it known what to simulate: " if problem else "backend simulated needs a device ("
        raise UsageProblem(f"{told}--device-profile, one of {', '.join(profiles.names())}, or a YAML file)")
    profile = profiles.load(named)
    decided = Layer(f"device profile {named}", {"backend": SimulatedBackend.name, "device_profile": named})
    simulated = sources.resolve(experiment, [*given, decided], profile.device, decided.source, configs, root)
    if simulated.settings.device != profile.device:
        raise UsageProblem(f"device {simulated.settings.device}, but device profile {named} is of a {profile.device}")
    return replace(simulated, fallback=problem)


def _check_name(resolved: Resolved) -> None:
    if (name := resolved.settings.backend) not in BACKENDS:
        known = " or ".join(map(repr, BACKENDS))
        raise UsageProblem(f"{resolved.where('backend')}: Input should be {known}, got {name!r}")


def _without_auto(layer: Layer) -> Layer:
    values = {key: value for key, value in layer.values.items() if (key, value) != ("backend", "auto")}
    return Layer(layer.source, values)


def _cannot_start(chosen: Settings) -> str | None:
    backend = backend_of(chosen)
    try:
        backend.check()
        _ = backend.devices
    except UsageProblem as problem:
        return str(problem)
    return None


def _gpus() -> list[str]:
    return [gpu["name"] for gpu in devices.describe()["gpus"]]
