"""YAML as settings have it: plain data alone, every key once, and one line for what is neither.

PyYAML keeps the last of two equal keys without a word, makes dates of what looks like one, and answers a wrong tag
with whatever its converter raised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import yaml

from context_research.errors import UsageProblem
from context_research.settings.options import can_be_kept

_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
"""What JSON can say, and `<<`."""


def parse(text: str, what: str) -> Any:
    """The one document in `text`: None, booleans, finite numbers, strings, lists and mappings of them.

    Raises UsageProblem that begins with `what` it is: no valid YAML, a key given twice, a value that no artifact holds.
    """
    try:
        return _parse(text)
    except RecursionError:
        told = "it is nested too deeply"
    except UsageProblem as problem:
        told = str(problem)
    # The last ones are a converter's own: ``!!int x``, ``!!bool x``, ``!!float ""``.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
    raise UsageProblem(f"{what} is no valid YAML: {told}")


def _parse(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, ())
        data = loader.construct_document(node)
    finally:
        loader.dispose()
    for value in _scalars(data):
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageProblem(f"{value} is no number that can be written to an artifact")
        if isinstance(value, str) and not can_be_kept(value):
            raise UsageProblem(f"{value!a:.60} holds a character that no file can")
    return data


def _check(node: yaml.Node, above: tuple[yaml.Node, ...]) -> None:
    """Raises UsageProblem for what PyYAML would let pass. `above`: the nodes that this one is in."""
    line = node.start_mark.line + 1
    if node in above:
        raise UsageProblem(f"line {line}: this holds an alias of itself")
    if node.tag not in _PLAIN:
        kind = node.tag.rpartition(":")[2]
        raise UsageProblem(f"line {line}: {_told(node)} would be a {kind}, which no setting is: put it in quotes")
    inside = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check(each, inside)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name, again = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise UsageProblem(f"line {again}: {_told(key)} is given twice, first in line {lines[name]}")
            lines[name] = again
            _check(key, inside)
            _check(value, inside)


def _told(node: yaml.Node) -> str:
    return str(node.value)[:60] if isinstance(node, yaml.ScalarNode) else "this"


def _scalars(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _scalars(key)
            yield from _scalars(value)
    elif isinstance(data, list):
        for each in data:
            yield from _scalars(each)
    else:
        yield data
