"""What a run is asked to do: command line > environment > ini > YAML, resolved once into a frozen object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from context_research.errors import UsageProblem
from context_research.options import OPTIONS, Option, flag_of, name_in

PACKAGE = Path(__file__).parent
# A wheel carries the shipped configs inside the package; a checkout has them beside it.
CONFIGS = PACKAGE / "_configs" if (PACKAGE / "_configs").is_dir() else PACKAGE.parent / "configs"

Integer = Annotated[int, Field(strict=True)]  # `"8"` and `true` are no integers
Positive = Annotated[Integer, Field(gt=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Device = Literal["cuda", "cpu"]
CheckName = Literal[
    "complete", "disaggregated", "transport", "cache", "client", "pressure", "parity", "window", "waterfall"
]
"""The validity checks (validity.py), in the order in which they are shown."""


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
    weights: Literal["hub", "seeded", "dummy"] = "hub"
    dtype: str = "auto"
    max_model_len: Positive | None = None


class EngineSettings(Section):
    """vLLM's engine arguments, for every engine of the run alike; `args` holds other fields of its AsyncEngineArgs.

    Memory is shared by the engines on a device: `gpu_memory_utilization` of each card, or `kv_cache_memory_bytes`, of
    each card or of the machine's CPU. `batch_invariant` is VLLM_BATCH_INVARIANT, on CUDA (docs/validity.md).
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
    """The requests: a case for each prompt length × concurrency, closed loop, exact token counts.

    `requests` are the measured ones of a repeat, at least as many as are in flight; with more than one in flight others
    before and after them keep the load whole. `cache` is the state of the prefix cache that each request meets: `cold`,
    `warm` (it holds the whole prompt) or `primed: 0.5`. `allow_preemptions`: the case is meant to be under pressure.
    """

    prompt_lengths: Annotated[tuple[Positive, ...], Field(min_length=1)]
    concurrency: Annotated[tuple[Positive, ...], Field(min_length=1)]
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


class EngineSpec(Section):
    """One engine of a serving mode. `devices` and `memory_share` default to an even split of the run's."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    role: Literal["aggregated", "prefill", "decode"]
    devices: tuple[Integer, ...] | None = None
    memory_share: Annotated[Number, Field(gt=0, le=1)] | None = None


class Handoff(Section):
    """How the KV cache gets from the prefill to the decode engine (vLLM's KVTransferConfig).

    `connector_module` is where the connector's class is found: ours adds to its statistics when each KV was read.
    """

    connector: Literal["NixlConnector"] = "NixlConnector"
    connector_module: str = "context_research.serving.nixl"
    backends: tuple[str, ...] = ("UCX",)
    load_failure_policy: Literal["fail", "recompute"] = "fail"
    progress_thread: Literal["auto", "on", "off"] = "auto"
    extra_config: dict[str, Any] = Field(default_factory=dict)


class Serving(Section):
    """Which engines there are; `routing`: of several of a role the next in turn, or that with the fewest in flight."""

    mode: Literal["aggregated", "disaggregated"]
    engines: Annotated[tuple[EngineSpec, ...], Field(min_length=1)]
    routing: Literal["round_robin", "least_loaded"] = "least_loaded"
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


class Settings(Section):
    """One run's settings, as resolved. `device_profile`: the simulated machine, of configs/devices or a YAML file."""

    experiment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    backend: Literal["vllm", "simulated"] = "vllm"
    device: Device
    devices: Annotated[tuple[Integer, ...], Field(min_length=1)] | None = None
    seed: Annotated[Integer, Field(ge=0)] | None = None
    outputs: Path = Path("outputs")
    model: ModelSettings
    engine: EngineSettings = EngineSettings()
    workload: Workload
    slo: Slo = Slo()
    serving: Serving
    allow_invalid: tuple[CheckName, ...] = ()
    """Checks that may fail: for research on broken systems, and shown wherever a figure is."""
    device_profile: Annotated[str, Field(min_length=1)] | None = None

    @property
    def simulated(self) -> bool:
        return self.backend == "simulated"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings with, for each dotted key that was given, where it came from."""

    settings: Settings
    sources: dict[str, str]
    reason: str
    """Why this experiment config applies, for the header line and the metadata."""
    fallback: str | None = None
    """Why the real backend can't start, where the simulated one took its place."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: dotted key -> value. Later layers win."""

    source: str
    values: dict[str, Any]


def resolve(experiment: str, given: Iterable[Layer], device: Device, why_device: str) -> Resolved:
    """Combine the YAML files with `given` (weakest first: ini, environment, command line).

    `experiment` names the benchmark folder (`e0`); `device` is what the machine has, used where nothing names one.

    Raises UsageProblem: a file that is missing, an unknown or ill-typed key, an unknown serving mode.
    """
    layers = list(given)
    chosen = {key: (value, layer.source) for layer in layers for key, value in layer.values.items()}
    device = chosen["device"][0] if chosen.get("device", ("auto",))[0] != "auto" else device
    if "experiment" in chosen:
        path = Path(chosen["experiment"][0])
        reason = f"{path} ({chosen['experiment'][1]})"
    else:
        path = _shipped_experiment(experiment, device)
        reason = f"{path.name}, as the device is {device} ({why_device})"
    file_values = read_yaml(path)
    tree, sources = _flatten_into({}, {}, Layer(str(path), dict(_leaves(file_values))))
    serving_path, serving_source = _serving_file(*chosen.get("serving", (None, "")), inline=file_values.get("serving"))
    if serving_path is not None:
        tree["serving"] = read_yaml(serving_path)
        sources = {key: source for key, source in sources.items() if key.split(".")[0] != "serving"}
        sources["serving"] = f"{serving_path.name} ({serving_source})"
    for layer in layers:
        values = {key: value for key, value in layer.values.items() if key not in ("experiment", "serving")}
        tree, sources = _flatten_into(tree, sources, Layer(layer.source, values))
    if tree.get("device", "auto") == "auto":
        tree["device"], sources["device"] = device, why_device
    settings = _validated(tree, path, serving_path, sources)
    if settings.experiment != experiment:
        raise UsageProblem(f"{path} is for experiment {settings.experiment!r}, but benchmarks/{experiment} is to run")
    return Resolved(settings, dict(sorted(sources.items())), reason)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises UsageProblem: missing, unreadable, no mapping."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise UsageProblem(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UsageProblem(f"{path} must hold keys and values, such as those of {CONFIGS.name}/experiments/e0.yaml")
    return loaded


def parse_options(source: str, texts: Mapping[str, Any]) -> Layer:
    """Options (flag -> text or parsed value) as a layer. Raises UsageProblem for a value of the wrong type."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if (value := texts.get(option.flag)) is None:
            continue
        _refuse_second(option, values, source)
        try:
            values[option.key] = option.parse(value) if isinstance(value, str) else value
        except ValueError:
            named = {"environment": option.environment, "ini": option.ini}.get(source, option.flag)
            raise UsageProblem(f"{named}={value}: expected a value like {option.metavar} ({option.help})") from None
    return Layer(source, values)


def parse_set(source: str, given: Iterable[str]) -> Layer:
    """``--set KEY=VALUE`` as a layer: any dotted key of Settings, the value in YAML. Raises UsageProblem."""
    values: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageProblem(f"--set {text}: expected KEY=VALUE, such as engine.max_num_batched_tokens=4096")
        if key in ("serving", "experiment"):
            raise UsageProblem(f"--set {text}: that is a file's name, give it with --{key}-config")
        try:
            values[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: a date that is none
            raise UsageProblem(f"--set {text}: the value is no valid YAML") from None
    return Layer(source, values)


def serving_modes() -> list[str]:
    """The names that --serving takes: the files of configs/serving."""
    return sorted(path.stem for path in (CONFIGS / "serving").glob("*.yaml"))


def _refuse_second(option: Option, values: Mapping[str, Any], source: str) -> None:
    if option.key in values:
        raise UsageProblem(f"--serving and --serving-config are both given ({source}): give one")


def _shipped_experiment(experiment: str, device: Device) -> Path:
    return CONFIGS / "experiments" / f"{experiment}{'' if device == 'cuda' else '_smoke'}.yaml"


def _serving_file(value: str | Path | None, source: str, inline: Any) -> tuple[Path | None, str]:
    if value is None and inline is not None:
        return None, ""
    if value is None:
        value, source = "aggregated", "default"
    if isinstance(value, Path):
        return value, source
    if value in serving_modes():
        return CONFIGS / "serving" / f"{value}.yaml", source
    if value.endswith((".yaml", ".yml")):
        return Path(value), source
    raise UsageProblem(
        f"unknown serving mode {value!r}: choose from {', '.join(serving_modes())}, or --serving-config FILE"
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        # Free-form groups (vLLM's own arguments) stay whole: their keys may hold dots.
        if isinstance(value, dict) and value and name not in ("engine.args", "serving"):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _flatten_into(tree: dict[str, Any], sources: dict[str, str], layer: Layer) -> tuple[dict[str, Any], dict[str, str]]:
    for key, value in layer.values.items():
        *groups, leaf = key.split(".")
        node = tree
        for depth, group in enumerate(groups, 1):
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                name = ".".join(groups[:depth])
                raise UsageProblem(f"{sources[name]}: {name}: must hold keys and values, got {node!r}")
        node[leaf] = value
        sources[key] = layer.source
    return tree, sources


def _validated(tree: dict[str, Any], path: Path, serving_path: Path | None, sources: Mapping[str, str]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        # An unknown group has its source below it, where its keys were given.
        below = (name for name in sources if name.startswith(f"{key}."))
        given = next((name for name in _and_above(key) if name in sources), None) or next(below, key)
        origin = sources.get(given, str(path))
        if first["loc"][:1] == ("serving",) and serving_path is not None:
            key, origin = key.removeprefix("serving."), str(serving_path)
        raise UsageProblem(f"{name_in(origin, given) or f'{origin}: {key}'}: {_explain(first, key)}") from None


def _and_above(key: str) -> Iterable[str]:
    """``a.b.0`` -> ``a.b.0``, ``a.b``, ``a``: an item of a list has its list's source."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _explain(error: Any, key: str) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key; allowed here: {', '.join(_allowed(error['loc'][:-1]))}"
    if error["type"] == "missing":
        if key == "experiment":  # --experiment-config names the file, not the experiment
            return "missing; give it in the file"
        return f"missing; give it in the file{'' if flag_of(key) == key else ' or with ' + flag_of(key)}"
    return f"{error['msg']}, got {error['input']!r}"


def _allowed(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Settings
    for part in location:
        if isinstance(part, str):
            section = _section_of(section.model_fields[part].annotation)
    return sorted(section.model_fields)


def _section_of(annotation: Any) -> Any:
    """The Section inside `X`, `X | None`, `tuple[X, ...]` or `Annotated[X, …]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None
