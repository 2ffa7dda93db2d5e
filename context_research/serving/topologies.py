"""Builds the topology that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from context_research.devices import Placement, place, run_devices
from context_research.engines.base import Engine
from context_research.eventloop import EventLoop
from context_research.serving.aggregated import Aggregated
from context_research.serving.base import Topology
from context_research.serving.disaggregated import Disaggregated
from context_research.settings import Settings

_TOPOLOGIES: dict[str, type[Topology]] = {"aggregated": Aggregated, "disaggregated": Disaggregated}


def build(settings: Settings, loop: EventLoop, make_engine: Callable[[Placement], Engine]) -> Topology:
    """The serving mode's engines, placed on the run's devices; nothing is started yet.

    Raises UsageProblem as `place` does.
    """
    engines = [make_engine(placement) for placement in place(settings, run_devices(settings))]
    return _TOPOLOGIES[settings.serving.mode](engines, loop, settings.workload.request_timeout_s)
