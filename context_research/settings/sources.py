"""Where settings come from: command line > environment > ini > YAML, resolved once, each key with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_research.errors import UsageProblem, given_twice
from context_research.settings import yaml_text
from context_research.settings.experiments import CONFIGS, SHIPPED, config_file
from context_research.settings.messages import key_and_above, validated
from context_research.settings.options import OPTIONS, Option, located, name_in
from context_research.settings.schema import Device, Settings


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings with, for each dotted key that was given, where it came from."""

    settings: Settings
    sources: dict[str, str]
    reason: str
    """Why this experiment config applies, for the header line and the metadata."""
    fallback: str | None = None
    """Why the real backend can't start, where the simulated one took its place."""

    def where(self, key: str) -> str:
        """Where `key` was given, for messages: ``--seed``, ``CONTEXT_RESEARCH_SEED``, ``e0.yaml: seed``."""
        source = self.sources.get(key, self.reason)
        return name_in(source, key) or f"{source}: {key}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of settings: dotted key -> value. Later layers win."""

    source: str
    values: dict[str, Any]


def resolve(
    experiment: str,
    given: Iterable[Layer],
    device: Device,
    why_device: str,
    configs: Path = SHIPPED,
    root: Path | None = None,
) -> Resolved:
    """Combine the YAML files with `given` (weakest first: ini, environment, command line).

    `experiment` is the experiment's name (`e0`), `configs` the folder of its YAML; `device` is what the machine has,
    used where nothing names one. Relative paths in the YAML start at `root`, the project's, by default here.

    Raises UsageProblem: a file that is missing, an unknown or ill-typed key, an unknown serving mode.
    """
    layers = list(given)
    chosen = {key: (value, layer.source) for layer in layers for key, value in layer.values.items()}
    device = chosen["device"][0] if chosen.get("device", ("auto",))[0] != "auto" else device
    if "experiment" in chosen:
        path = Path(chosen["experiment"][0])
        reason = f"{path} ({chosen['experiment'][1]})"
    else:
        path = config_file(experiment, configs, device == "cuda")
        reason = f"{path.name}, as the device is {device} ({why_device})"
    file_values = read_yaml(path)
    tree, sources = _flatten_into({}, {}, Layer(str(path), _flat(file_values, path, root)))
    serving_path, serving_source = _serving_file(*chosen.get("serving", (None, "")), inline=file_values.get("serving"))
    if serving_path is not None:
        tree["serving"] = read_yaml(serving_path)
        sources = {key: source for key, source in sources.items() if key.split(".")[0] != "serving"}
        sources["serving"] = f"{serving_path.name} ({serving_source})"
    for layer in layers:
        values = {key: value for key, value in layer.values.items() if key not in ("experiment", "serving")}
        tree, sources = _flatten_into(tree, sources, Layer(layer.source, values))
        for key in values:
            _drop_axis(tree, sources, key, layer.source)
    if tree.get("device", "auto") == "auto":
        tree["device"], sources["device"] = device, why_device
    settings = validated(tree, path, serving_path, sources)
    if settings.experiment != experiment:
        raise UsageProblem(f"{path} is for experiment {settings.experiment!r}, but {experiment} is to run")
    return Resolved(settings, dict(sorted(sources.items())), reason)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises UsageProblem: missing, unreadable, no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no text, a path that can be none
        raise UsageProblem(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    loaded = yaml_text.parse(text, str(path))
    if not isinstance(loaded, dict):
        raise UsageProblem(f"{path} must hold keys and values, such as those of {CONFIGS.name}/experiments/e0.yaml")
    return loaded


def parse_options(source: str, texts: Mapping[str, Any], folder: Path | None = None) -> Layer:
    """Options (flag -> text or parsed value) as a layer; relative paths start at `folder`, by default here.

    Raises UsageProblem for a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if (value := texts.get(option.flag)) is None:
            continue
        _refuse_second(option, values, source)
        if isinstance(value, str):
            value = located(option.key, value, folder or Path.cwd())
        try:
            values[option.key] = option.parse(value) if isinstance(value, str) else value
        except ValueError:
            named = {"environment": option.environment, "ini": option.ini}.get(source, option.flag)
            raise UsageProblem(f"{named}={value}: expected a value like {option.metavar} ({option.help})") from None
    return Layer(source, values)


def parse_set(source: str, given: Iterable[str]) -> Layer:
    """``--set KEY=VALUE`` as a layer: any dotted key of Settings, the value in YAML; relative paths start here.

    Raises UsageProblem.
    """
    values: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise UsageProblem(f"--set {text}: expected KEY=VALUE, such as engine.max_num_batched_tokens=4096")
        if key in ("serving", "experiment"):
            raise UsageProblem(f"--set {text}: that is a file's name, give it with --{key}-config")
        values[key] = _located(key, yaml_text.parse(value, f"--set {text}: the value"), Path.cwd())
    return Layer(source, values)


def _located(key: str, value: Any, folder: Path) -> Any:
    if isinstance(value, list) and key.startswith("axes."):
        return [_located(key.removeprefix("axes."), each, folder) for each in value]
    return located(key, value, folder) if isinstance(value, str) else value


def serving_modes() -> list[str]:
    """The names that --serving takes: the files of configs/serving."""
    return sorted(path.stem for path in (CONFIGS / "serving").glob("*.yaml"))


def _drop_axis(tree: dict[str, Any], sources: dict[str, str], key: str, given_by: str) -> None:
    """A value that a stronger source gives takes the place of an axis over it."""
    axes: Any = tree.get("axes")
    axis_of = next((sources[name] for name in key_and_above(f"axes.{key}") if name in sources), given_by)
    if axis_of == given_by:
        return
    *groups, leaf = key.split(".")
    for group in groups:
        axes = axes.get(group) if isinstance(axes, dict) else None
    if isinstance(axes, dict) and axes.pop(leaf, None) is not None:
        sources.pop(f"axes.{key}", None)


def _refuse_second(option: Option, values: Mapping[str, Any], source: str) -> None:
    if option.key in values:
        raise UsageProblem(f"--serving and --serving-config are both given ({source}): give one")


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


def _flat(tree: Mapping[str, Any], path: Path, root: Path | None) -> dict[str, Any]:
    """Dotted key -> value of a file. Raises UsageProblem: one is there as ``a.b`` and as ``a: {b: …}``."""
    leaves = list(_leaves(tree))
    if twice := given_twice(key for key, _ in leaves):
        raise UsageProblem(f"{path}: {twice} is given twice, once with its dots")
    # Where outputs go is joined to the root by whoever writes them: it has a default, which starts there too.
    return {
        key: value if key == "outputs" and not str(value).startswith("~") else _located(key, value, root or Path.cwd())
        for key, value in leaves
    }


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
                origin = next((sources[above] for above in key_and_above(name) if above in sources), layer.source)
                told = "is a list, to be given whole" if isinstance(node, list) else "must hold keys and values"
                raise UsageProblem(f"{origin}: {name}: {told} ({layer.source}: {key}), got {node!r:.200}")
        node[leaf] = value
        sources[key] = layer.source
    return tree, sources
