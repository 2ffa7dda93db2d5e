"""Builds the engines and the topology that the settings ask for; nothing is started here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from context_research.backends.base import Backend
from context_research.engines import contract
from context_research.engines.base import Engine
from context_research.hardware.placement import Placement
from context_research.models.model import Model
from context_research.serving.aggregated import Aggregated
from context_research.serving.disaggregated import Disaggregated
from context_research.serving.topology import Topology

_TOPOLOGIES: dict[str, type[Topology]] = {"aggregated": Aggregated, "disaggregated": Disaggregated}


def build(backend: Backend, make_engine: Callable[[Placement], Engine]) -> Topology:
    """The serving mode's engines, placed on the run's devices, each made by `make_engine`.

    Raises UsageProblem as `place` does, and for what is no engine.
    """
    engines = [make_engine(placement) for placement in backend.placements]
    for engine, placement in zip(engines, backend.placements, strict=True):
        contract.check(engine, placement)
    settings, serving = backend.settings, backend.settings.serving
    return _TOPOLOGIES[serving.mode](backend, engines, settings.workload.request_timeout_s, serving.routing)


def with_logs(backend: Backend, model: Model, logs: Path) -> Topology:
    """The backend's own engines, each with a log in the folder `logs`."""
    return build(backend, lambda placement: backend.make_engine(model, placement, log_of(placement, logs)))


def log_of(placement: Placement, logs: Path) -> Path:
    """An engine's log, its folder made."""
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{placement.spec.name}.log"
