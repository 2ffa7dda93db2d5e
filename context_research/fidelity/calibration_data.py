"""What calibration takes from real runs: their steps, requests and machine; and which runs it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from context_research.backends.registry import named
from context_research.compare import observations
from context_research.engines import step_records
from context_research.errors import UsageProblem, given_twice
from context_research.models import capacity, hub
from context_research.models.model import Model
from context_research.records import store
from context_research.records import summary as summaries
from context_research.records.files import RunFiles
from context_research.records.run import EngineRecord, MachineRecord, RunRecord
from context_research.request import Timeline
from context_research.settings.schema import Device, Settings

Steps = NDArray[np.void]
"""Step records, a structured array (engines/step_records.py)."""
FEWEST = 10
"""Steps that a fit, or one feature of it, needs."""


@dataclass(frozen=True, slots=True)
class EngineSteps:
    """One engine's steps that computed something, by whether engines beside it computed meanwhile."""

    engine: EngineRecord
    alone: Steps
    contended: Steps
    overlap: NDArray[np.float64]
    """Seconds of each contended step during which the others computed, added up over those."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One real run."""

    run_id: str
    metadata: RunRecord
    settings: Settings
    model: Model
    engines: tuple[EngineSteps, ...]
    requests: tuple[Timeline, ...]
    """Complete measured requests of the cases with one in flight at a time."""

    @property
    def machine(self) -> MachineRecord:
        return self.metadata.environment_manifest.machine

    @property
    def vllm(self) -> str | None:
        return self.metadata.environment_manifest.vllm

    @property
    def block_tokens(self) -> int:
        """Of one KV block, as the engines had it."""
        own = next((steps.engine.resolved("cache", "block_size") for steps in self.engines), None)
        return own if isinstance(own, int) else capacity.block_tokens(self.settings)

    def fit_key(self, engine: EngineRecord) -> tuple[str, str, str, int]:
        """What the fit on this engine's steps is looked up by (`linear.key_of`)."""
        return self.model.label, self.model.dtype, engine.role, len(engine.devices)

    def alike(self) -> dict[str, object]:
        """What must not differ between the runs of one profile."""
        machine, engine = self.machine, self.settings.engine
        gpus = [gpu.name for gpu in machine.gpus]
        cpu = f"{machine.cpu.model}, {len(machine.cpu.cores)} cores"
        return {
            "device": self.settings.device,
            "hardware": ", ".join(gpus) if self.settings.device == "cuda" else cpu,
            "vLLM": self.vllm,
            "model": f"{self.model.label} in {self.model.dtype}",
            "engine.enforce_eager": engine.enforce_eager,
            "block size": self.block_tokens,
            "engine.args": engine.args,
        }


def load(runs: Sequence[RunFiles]) -> list[Measured]:
    """The runs, all of one machine, vLLM and model configuration. Raises UsageProblem naming the run that is not."""
    check_distinct(runs)
    loaded = [_load(files) for files in runs]
    first, *others = loaded
    for other in others:
        for what, value in first.alike().items():
            if (own := other.alike()[what]) != value:
                raise UsageProblem(
                    f"run {other.run_id}: {what} is {own}, of run {first.run_id} {value}: calibrate apart"
                )
    return loaded


def check_distinct(runs: Sequence[RunFiles]) -> None:
    """Raises UsageProblem for a run that is named twice: its samples would count twice."""
    if twice := given_twice(files.run_id for files in runs):
        raise UsageProblem(f"run {twice} is named twice")


def _load(files: RunFiles) -> Measured:
    run = store.read(files.metadata, RunRecord)
    if not named(run.backend).measured:
        raise UsageProblem(f"run {files.run_id} is {run.backend}: only real runs say how long a step takes")
    if run.status != "completed":
        raise UsageProblem(f"run {files.run_id} is {run.status}: only completed runs calibrate")
    summary = summaries.read(files, run)
    for case in summary.cases:
        # A run is complete though a check failed where --allow-invalid lets it.
        if not case.counts:
            failed = ", ".join(check.check for check in case.validity if check.status == "fail")
            raise UsageProblem(f"run {files.run_id} is invalid: case {case.name} fails {failed}")
    settings = run.resolved_settings()
    if settings.engine.batch_invariant:  # no profile says that it is of these
        raise UsageProblem(f"run {files.run_id} has batch-invariant kernels: they are not simulated")
    model = hub.resolve(settings.model)
    if run.model.label != model.label:
        raise UsageProblem(f"run {files.run_id} served {run.model.label}, which is {model.label} here now")
    alone = {case.name for case in summary.cases if case.axes.get("concurrency") == 1}
    requests = (
        timeline
        for name, repeats in observations.read(files).items()
        for repeat in repeats
        for timeline in repeat.timelines
        if name in alone
    )
    return Measured(files.run_id, run, settings, model, _engines(files, run, settings.device), tuple(requests))


def _engines(files: RunFiles, run: RunRecord, device: Device) -> tuple[EngineSteps, ...]:
    # A case's engines may be others than the next one's, of the same names: their steps are in one file.
    engines = {engine.name: engine for engine in run.engines}
    recorded = [(engine, _steps(files, run, name)) for name, engine in engines.items()]
    if not any(len(steps) for _, steps in recorded):
        raise UsageProblem(f"run {files.run_id} has no step records: run it again with this version")
    return tuple(_split(engine, steps, recorded, device) for engine, steps in recorded)


def _split(
    engine: EngineRecord, steps: Steps, recorded: Sequence[tuple[EngineRecord, Steps]], device: Device
) -> EngineSteps:
    overlap = _overlap(engine, steps, recorded, device)
    alone = overlap <= 0
    if device == "cpu" and np.count_nonzero(alone) < FEWEST:
        # On cores of their own, engines that are never seen alone are fitted as they are: beside each other.
        alone = np.ones_like(alone)
    return EngineSteps(engine, steps[alone], steps[~alone], overlap[~alone])


def _steps(files: RunFiles, run: RunRecord, engine: str) -> Steps:
    # Under xdist each worker has engines, and a folder, of its own.
    paths = sorted((files.folder / "steps").glob(f"**/{engine}.csv"))
    if not paths:
        raise UsageProblem(f"run {files.run_id} has no step records of engine {engine}: run it again with this version")
    steps: Steps = np.concatenate([step_records.read(path) for path in paths])
    if run.resumed and np.any(np.diff(steps["done"]) < 0):
        told = f"run {files.run_id} was resumed after the machine's clock had begun anew"
        raise UsageProblem(f"{told}: which engines' steps overlap is not known; calibrate on another run")
    computed: Steps = steps[(steps["prefill_tokens"] > 0) | (steps["decode_requests"] > 0)]
    return computed


def _overlap(
    engine: EngineRecord, steps: Steps, recorded: Sequence[tuple[EngineRecord, Steps]], device: Device
) -> NDArray[np.float64]:
    """Seconds of each step during which others computed: engines on the same GPU, or anywhere on a CPU machine."""
    seconds = np.zeros(len(steps))
    for other, others in recorded:
        if other is engine or not len(others):
            continue
        if device == "cuda" and not set(other.devices) & set(engine.devices):
            continue
        # An engine's own steps never overlap, so what it computed up to a moment is a line with a corner at each.
        others = others[np.argsort(others["done"])]
        moments = np.column_stack([others["done"] - others["seconds"], others["done"]]).ravel()
        computed = np.cumsum(others["seconds"])
        so_far = np.column_stack([computed - others["seconds"], computed]).ravel()
        began = steps["done"] - steps["seconds"]
        seconds += np.interp(steps["done"], moments, so_far) - np.interp(began, moments, so_far)
    # Moments are kept to the microsecond.
    return np.where(seconds > 2e-6, seconds, 0.0)
