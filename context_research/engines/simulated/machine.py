"""The machine that simulated engines share: its clock, its client, its devices, the links between them."""

from __future__ import annotations

import asyncio
import weakref
from functools import cached_property
from typing import TYPE_CHECKING

from context_research.engines.loop import EventLoop
from context_research.engines.simulated.clock import VirtualTimeLoop
from context_research.engines.simulated.profiles import DeviceProfile
from context_research.engines.simulated.time_sharing import TimeShared
from context_research.hardware.devices import Machine
from context_research.hardware.placement import Placement

if TYPE_CHECKING:
    from context_research.engines.simulated.engine import SimulatedEngine


class SimulatedMachine:
    """One machine of a device profile. Engines on the same one contend with each other, and read each other's KV."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.client = asyncio.Lock()
        """The client is one thread, which does one thing at a time."""
        self.engines: weakref.WeakValueDictionary[str, SimulatedEngine] = weakref.WeakValueDictionary()
        """By vLLM's engine_id, which a KV read names its source with."""
        self._shared: dict[tuple[str, int], TimeShared] = {}

    @cached_property
    def loop(self) -> EventLoop:
        """In virtual time."""
        return EventLoop(VirtualTimeLoop(), virtual=True)

    @property
    def devices(self) -> Machine:
        """What engines are placed on."""
        profile = self.profile
        memory = (profile.memory_bytes,) * (1 if profile.device == "cpu" else profile.count)
        return Machine(profile.device, tuple(range(profile.count)), memory)

    def device(self, placement: Placement) -> TimeShared:
        """What an engine computes on. GPUs are apart from each other, CPU cores share caches and memory."""
        return self._of("device", 0 if self.profile.device == "cpu" else placement.devices[0])

    def link(self, placement: Placement) -> TimeShared:
        """What an engine's KV reads go over."""
        return self._of("link", placement.devices[0])

    def _of(self, kind: str, index: int) -> TimeShared:
        return self._shared.setdefault((kind, index), TimeShared(rank=len(self._shared)))
