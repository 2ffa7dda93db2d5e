"""Builds the engines and the topology that the settings ask for; nothing is started here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from context_research.engines.base import Engine
from context_research.engines.vllm import handoff
from context_research.engines.vllm.engine import VllmEngine
from context_research.hardware.devices import Placement, place, run_devices
from context_research.models.model import Model
from context_research.serving.aggregated import Aggregated
from context_research.serving.disaggregated import Disaggregated
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings

_TOPOLOGIES: dict[str, type[Topology]] = {"aggregated": Aggregated, "disaggregated": Disaggregated}


def make_engine(settings: Settings, model: Model, placement: Placement, log: Path) -> Engine:
    """vLLM's engine for one placement, not yet started, with the connector that the serving mode needs."""
    if settings.simulated:
        from context_research.engines.simulated.engine import SimulatedEngine

        return SimulatedEngine(settings, model, placement, log)
    described = settings.serving.handoff
    connector = handoff.connector(described, placement.spec.role, settings.device) if described else None
    return VllmEngine(settings, model, placement, log, connector)


def build(settings: Settings, make_engine: Callable[[Placement], Engine]) -> Topology:
    """The serving mode's engines, placed on the run's devices.

    Raises UsageProblem as `place` does.
    """
    engines = [make_engine(placement) for placement in place(settings, run_devices(settings))]
    serving = settings.serving
    return _TOPOLOGIES[serving.mode](engines, settings.workload.request_timeout_s, serving.routing)
