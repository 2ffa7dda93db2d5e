"""What the rest of the project needs of a backend, before a run (`Backend`) and of what a run has left (`Labels`).

A new backend is a file beside this one with both, and a line in registry.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from context_research.engines.base import Engine, Evidence
from context_research.engines.loop import EventLoop
from context_research.hardware import placement
from context_research.hardware.devices import Machine
from context_research.hardware.placement import Placement
from context_research.models.model import Model
from context_research.records.case import CaseRecord
from context_research.records.run import EngineRecord, RunRecord
from context_research.settings.schema import Settings


class Labels:
    """What a run of this backend is called wherever one of its figures is shown, and which of its facts matter.

    From artifacts alone: the machine of the run need not be here. These are a real run's; others say otherwise.
    """

    mark: ClassVar[str] = ""
    """Stands before every figure; empty for figures that were measured."""
    notice: ClassVar[str] = ""
    """What pytest's first lines say of a run that is about to begin; empty for engines that will run."""
    figures: ClassVar[str] = "Measured"
    engine: ClassVar[str] = "vLLM on "
    """Stands before the device, in the titles of figures."""

    def device(self, run: RunRecord) -> str:
        """What ran it: ``2 × NVIDIA H200``, ``16 CPU cores``."""
        if run.device == "cuda":
            counted = Counter(gpu.name for gpu in run.used_gpus)
            return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counted.items()) or "cuda"
        return f"{len(run.environment_manifest.machine.cpu.cores)} CPU cores"

    def row_device(self, device: str, engines: Sequence[EngineRecord]) -> str:
        """The device in the names of pytest-benchmark's rows, by which figures of different machines never meet."""
        del engines
        return device

    def indices(self, run: RunRecord) -> str:
        """Ids of the run's GPUs as the machine has them, or its cores: sessions may have run side by side."""
        if run.device == "cuda":
            return ",".join(gpu.id for gpu in run.used_gpus)
        return ",".join(map(str, sorted(run.used_devices)))

    def warning(self, engines: Sequence[EngineRecord], cases: Iterable[CaseRecord]) -> str:
        """What a reader must know before any figure, or nothing."""
        del engines, cases
        return ""

    def facts(self, run: RunRecord) -> dict[str, object]:
        """What two runs must share beside settings, model and software: the machine."""
        machine = run.environment_manifest.machine
        return {
            "hardware.gpus": [(gpu.name, gpu.memory_bytes, gpu.power_limit_w) for gpu in run.used_gpus],
            "hardware.cpu": (machine.cpu.model, len(machine.cpu.cores)),
            "hardware.driver": machine.driver,
            "hardware.devices": len(run.used_devices),
        }


class Backend(ABC):
    """What runs the engines of some settings. Makes nothing and asks nothing of a device until it is used."""

    name: ClassVar[str]
    labels: ClassVar[Labels]
    measured: ClassVar[bool] = True
    """Figures and artifacts hold seconds of the wall's clock; else they are a model's, the same run after run."""
    needs_weights: ClassVar[bool] = True
    """Engines load the model's weights; else its config is enough."""
    needs_own_devices: ClassVar[bool] = True
    """Runs at the same time must have devices of their own, or they disturb each other's figures."""
    absent: ClassVar[Mapping[Evidence, str]] = {}
    """Evidence that there is nothing of here, with the reason: checks that need it are n/a."""

    def __init__(self, settings: Settings, sees: Sequence[int] | None = None) -> None:
        self.settings = settings
        self.sees = sees
        """The devices of this machine that the run's process will see; None: those that this one sees."""

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """What engines are placed on."""

    @property
    @abstractmethod
    def loop(self) -> EventLoop:
        """Where engines are served, and by whose clock."""

    @property
    @abstractmethod
    def evidence(self) -> frozenset[Evidence]:
        """What this backend gives beside its engines: `Evidence.WALL_TIME`, `Evidence.ENERGY`."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what is not here or can't be, before anything starts. Never falls back. Raises UsageProblem."""

    @abstractmethod
    def check_engines(self, model: Model) -> None:
        """Refuse engines that would give wrong figures where they are placed. Raises UsageProblem."""

    @abstractmethod
    def make_engine(self, model: Model, placement: Placement, log: Path) -> Engine:
        """One engine, not yet started."""

    @abstractmethod
    def joules(self) -> float | None:
        """Energy that the run's devices have used since some fixed moment; differences count. None: not known."""

    @property
    def marker(self) -> str:
        """The pytest marker of its cases."""
        return {"cuda": "gpu", "cpu": "cpu"}[self.settings.device]

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """The devices that the run's engines share. Raises UsageProblem for one that the machine does not have."""
        return placement.run_devices(self.settings, self.machine)

    @cached_property
    def placements(self) -> list[Placement]:
        """Where each engine goes, in the serving config's order. Raises UsageProblem as `place` does."""
        return placement.place(self.settings, self.machine)

    @property
    def serving_devices(self) -> int:
        """How many devices serve, for figures per device: GPUs; a CPU machine counts as one."""
        return len(self.devices) if self.settings.device == "cuda" else 1
