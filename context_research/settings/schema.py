"""What a run is asked to do: command line > environment > ini > YAML, resolved once into a frozen object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from context_research.settings.experiments import CONFIGS as CONFIGS

Integer = Annotated[int, Field(strict=True)]  # `"8"` and `true` are no integers
Positive = Annotated[Integer, Field(gt=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
DEFAULT_OUTPUTS = Path("outputs")
"""Below the project's root."""
Device = Literal["cuda", "cpu"]
Mode = Literal["aggregated", "disaggregated"]
Role = Literal["aggregated", "prefill", "decode"]
Routing = Literal["round_robin", "least_loaded"]
Weights = Literal["hub", "seeded", "dummy"]
Dtype = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]
"""vLLM's own list (vllm.config.model.ModelDType): another is refused here, and not after the engine's start."""


class Section(BaseModel):
    """A group of settings: closed (unknown keys are errors), immutable, and not coerced (`"8"` is no integer)."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


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


class Primed(Section):
    """A prefix cache that holds the first part of every prompt: `primed` is its share of the prompt's tokens."""

    primed: Annotated[Number, Field(gt=0, lt=1)]


class Workload(Section):
    """The requests: a case for each prompt length × concurrency, exact token counts; `arrivals`: when they are sent.

    `requests` are the measured ones of a repeat, at least as many as are in flight; with more than one in flight others
    before and after them keep the load whole. `cache` is the state of the prefix cache that each request meets: `cold`,
    `warm` (it holds the whole prompt) or `primed: 0.5`. `allow_preemptions`: the case is meant to be under pressure.
    """

    prompt_lengths: Annotated[tuple[Positive, ...], Field(min_length=1)]
    concurrency: Annotated[tuple[Positive, ...], Field(min_length=1)]
    arrivals: Annotated[str, Field(min_length=1)] = "closed"
    output_tokens: Positive = 128
    requests: Positive = 17
    repeats: Positive = 3
    warmup_requests: Annotated[Integer, Field(ge=0)] = 2
    request_timeout_s: Annotated[Number, Field(gt=0)] = 300.0
    temperature: Annotated[Number, Field(ge=0)] = 0.0
    cache: Literal["cold", "warm"] | Primed = "cold"
    allow_preemptions: Switch = False

    @property
    def primed_share(self) -> float:
        """Share of each prompt that the prefix cache holds when the request is sent."""
        return self.cache.primed if isinstance(self.cache, Primed) else {"cold": 0.0, "warm": 1.0}[self.cache]

    @field_validator("cache", mode="wrap")
    @classmethod
    def _one_of_three(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        # Pydantic would complain of one of the alternatives, and not of the right one.
        try:
            return check(value)
        except ValidationError:
            raise ValueError("must be cold, warm, or primed: a share between 0 and 1") from None

    @field_validator("prompt_lengths", "concurrency")
    @classmethod
    def _once(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        # A case that ran twice would send its prompts twice, and measure a warm prefix cache.
        if len(set(values)) < len(values):
            raise ValueError("a value is given twice")
        return values


class Slo(Section):
    """Service level objectives in seconds; goodput counts the requests that meet every one given."""

    ttft: Annotated[Number, Field(gt=0)] | None = None
    tpot: Annotated[Number, Field(gt=0)] | None = None


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
    machine: MachineSettings = MachineSettings()
    serving: Serving
    allow_invalid: tuple[str, ...] = ()
    """Names of checks that may fail: for research on broken systems, and shown wherever a figure is."""
    device_profile: Annotated[str, Field(min_length=1)] | None = None
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """What is varied besides prompt length and concurrency: a dotted key of these settings, or a parameter of the
    experiment's test -> its values, a case for each."""

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
