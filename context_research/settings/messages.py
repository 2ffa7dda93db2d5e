"""Wrong settings in one line that names the key, where it was given, and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from context_research.errors import UsageProblem
from context_research.settings.base import Section
from context_research.settings.options import flag_of, name_in
from context_research.settings.schema import Settings


def validated(tree: dict[str, Any], path: Path, serving_path: Path | None, sources: Mapping[str, str]) -> Settings:
    """The settings in `tree`. Raises UsageProblem with the first wrong key, and where it was given."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        # An unknown group has its source below it, where its keys were given.
        below = (name for name in sources if name.startswith(f"{key}."))
        given = next((name for name in key_and_above(key) if name in sources), None) or next(below, key)
        origin = sources.get(given, str(path))
        if first["loc"][:1] == ("serving",) and serving_path is not None:
            key, origin = key.removeprefix("serving."), str(serving_path)
        raise UsageProblem(f"{name_in(origin, given) or f'{origin}: {key}'}: {_explain(first, key)}") from None


def with_values(settings: Settings, values: Mapping[str, Any], prefix: str = "") -> Settings:
    """`settings` with these dotted keys changed. Raises UsageProblem: no such key, a value that it can't have."""
    if not values:
        return settings
    tree = settings.model_dump()
    for key, value in values.items():
        *groups, leaf = key.split(".")
        node: Any = tree
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UsageProblem(f"{prefix}{key}: there is no {'.'.join(groups)} in these settings")
        node[leaf] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        given = next((name for name in values if key.startswith(name) or name.startswith(key)), key)
        raise UsageProblem(f"{prefix}{given}: {_explain(first, key)}") from None


def key_and_above(key: str) -> Iterable[str]:
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
    told = str(error["msg"]).removeprefix("Value error, ")
    # What contradicts itself is a whole group, and the message names its keys.
    return told if error["type"] == "contradiction" else f"{told}, got {error['input']!r:.200}"


def _allowed(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Settings
    for part in location:
        if isinstance(part, str) and part in section.model_fields:  # others are names, such as a class's
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
