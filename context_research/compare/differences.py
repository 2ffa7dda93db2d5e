"""In what runs differ, setting by setting: for a reader, not for a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from context_research.compare.comparison import Run


def manifest_differences(*runs: Run) -> list[tuple[Any, ...]]:
    """Every setting, version and recorded variable in which runs differ: its name, then each run's value."""
    sides = [
        dict(_flat({"settings": run.metadata.settings, **run.metadata.environment_manifest.model_dump(mode="json")}))
        for run in runs
    ]
    names = sorted({name for side in sides for name in side})
    rows = ((name, *(side.get(name) for side in sides)) for name in names)
    return [row for row in rows if any(value != row[1] for value in row[2:])]


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, Sequence) and not isinstance(tree, str) and any(isinstance(item, Mapping) for item in tree):
        for number, item in enumerate(tree):
            yield from _flat(item, f"{prefix}.{number}")
    else:
        yield prefix, tree
