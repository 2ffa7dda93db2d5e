"""What a run is asked to do: command line > environment > ini > YAML, resolved once into a frozen object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from context_research.settings.base import Integer, Number, Positive, Section, Switch
from context_research.settings.experiments import CONFIGS as CONFIGS
from context_research.settings.workload import Slo, Workload

DEFAULT_OUTPUTS = Path("outputs")
"""Below the project's root."""
Device = Literal["cuda", "cpu"]
Mode = Literal["aggregated", "disaggregated"]
Role = Literal["aggregated", "prefill", "decode"]
Routing = Literal["round_robin", "least_loaded"]
Weights = Literal["hub", "seeded", "dummy"]
Dtype = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]
"""vLLM's own list (vllm.config.model.ModelDType): another is refused here, and not after the engine's start."""


class ModelSettings(Section):
    """Which model, and where its weights come from.

    `name`: a folder of configs/models, a local folder, or a hub id. `weights`: `hub` (downloaded, or the local
    folder's own), `seeded` (random but properly scaled, so that the output depends on every prompt token; needs only
    config.json), `dummy` (vLLM's own; hides KV faults).
    """

    name: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    weights: Weights = "hub"
    dtype: Dtype = "auto"
    max_model_len: Positive | None = None


class EngineSettings(Section):
    """vLLM's engine arguments, for every engine of the run alike; `args` holds other fields of its AsyncEngineArgs.

    Memory is shared by the engines on a device: `gpu_memory_utilization` of each card, or `kv_cache_memory_bytes`, of
    each card or of the machine's CPU. `batch_invariant` is VLLM_BATCH_INVARIANT, on CUDA (docs/why-validity.md).
    """

    block_size: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    max_num_seqs: Positive | None = None
    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] = 0.9
    kv_cache_memory_bytes: Positive | None = None
    enforce_eager: Switch = False
    batch_invariant: Switch = False
    enable_prefix_caching: Switch = True
    args: dict[str, Any] = Field(default_factory=dict)


class MachineSettings(Section):
    """What else may happen on the run's devices. `other_load`: the share of its cores that other processes may have
    while requests are measured; `share_devices`: another run may have the same devices at the same time."""

    other_load: Annotated[Number, Field(ge=0, le=1)] = 0.25
    share_devices: Switch = False


class EngineSpec(Section):
    """One engine of a serving mode. `devices` and `memory_share` default to an even split of the run's."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    role: Role
    devices: tuple[Integer, ...] | None = None
    memory_share: Annotated[Number, Field(gt=0, le=1)] | None = None


class Handoff(Section):
    """How the KV cache gets from the prefill to the decode engine (vLLM's KVTransferConfig).

    `connector_module` is where the connector's class is found: ours adds to its statistics when each KV was read.
    """

    connector: Literal["NixlConnector"] = "NixlConnector"
    connector_module: str = "context_research.engines.vllm.nixl_connector"
    backends: tuple[str, ...] = ("UCX",)
    load_failure_policy: Literal["fail", "recompute"] = "fail"
    progress_thread: Literal["auto", "on", "off"] = "auto"
    extra_config: dict[str, Any] = Field(default_factory=dict)


class Serving(Section):
    """Which engines there are. `routing` between engines of one role: in turn, or to the one with the fewest requests
    in flight."""

    mode: Mode
    engines: Annotated[tuple[EngineSpec, ...], Field(min_length=1)]
    routing: Routing = "least_loaded"
    handoff: Handoff | None = None

    @model_validator(mode="after")
    def _engines_fit_the_mode(self) -> Serving:
        roles = sorted({engine.role for engine in self.engines})
        wanted = ["aggregated"] if self.mode == "aggregated" else ["decode", "prefill"]
        if roles != wanted:
            raise ValueError(f"mode {self.mode} needs engines with the roles {wanted}, not {roles}")
        if len({engine.name for engine in self.engines}) != len(self.engines):
            raise ValueError("engine names must differ")
        if (self.mode == "disaggregated") != (self.handoff is not None):
            raise ValueError("a handoff belongs to mode disaggregated, and only there")
        return self


def _flat_lists(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat_lists(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class Settings(Section):
    """One run's settings, as resolved. `device_profile`: the simulated machine, of configs/devices or a YAML file."""

    experiment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    backend: str = "vllm"
    """A name in backends/registry.py."""
    device: Device
    devices: Annotated[tuple[Integer, ...], Field(min_length=1)] | None = None
    seed: Annotated[Integer, Field(ge=0)] | None = None
    outputs: Path = DEFAULT_OUTPUTS
    model: ModelSettings
    engine: EngineSettings = EngineSettings()
    workload: Workload
    slo: Slo = Slo()
    more_slos: tuple[Slo, ...] = ()
    """The others, where `slo` is given as a list: one set of runs answers for each of them."""
    primary: Annotated[tuple[str, ...], Field(min_length=1)] = ("ttft", "tpot")
    """The family that an A/B judges unless told otherwise (docs/statistics.md)."""
    machine: MachineSettings = MachineSettings()
    serving: Serving
    allow_invalid: tuple[str, ...] = ()
    """Names of checks that may fail: for research on broken systems, and shown wherever a figure is."""
    device_profile: Annotated[str, Field(min_length=1)] | None = None
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """What is varied besides prompt length and concurrency: a dotted key of these settings, or a parameter of the
    experiment's test -> its values, a case for each."""

    @model_validator(mode="before")
    @classmethod
    def _first_slo(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(slos := given.get("slo"), (list, tuple)):
            return given | {"slo": slos[0] if slos else {}, "more_slos": [*slos[1:], *given.get("more_slos", ())]}
        return given

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Every set of objectives; metrics named without one are of the first."""
        return (self.slo, *self.more_slos)

    @field_validator("axes", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """Keys may be nested in YAML, and come so from --set."""
        return dict(_flat_lists(value)) if isinstance(value, dict) else value

    @field_validator("axes")
    @classmethod
    def _some_values(cls, axes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in axes.items():
            if not values or any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"{key} needs values that differ")
        return axes
