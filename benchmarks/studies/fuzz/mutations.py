"""Ways to spoil an input: a text's characters and lines, a tree's keys and values. Every choice is the generator's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 10**6, 10**12, 2**63, -(10**30), 0.5, -0.0, 1e-300, 1e308),
    *("", "x", "0", "null", "~", "~nobody/x", "../..", "a b", "é\u2028\n", "x" * 5000, "2024-01-01", "tiny-qwen3"),
    *([], [[]], [0], [1, 1], ["x"], [None], list(range(50)), {}, {"": 1}, {"a": {"b": [1]}}, {"0": 0}),
)
"""What stands in for a value of a tree: of another type, out of range, empty, long."""
YAML_ONLY = (
    *("!!timestamp x", "2024-13-45", "!!int x", '!!float ""', "!!bool x", "!!binary =", "!!set {a, b}", "!!python/x"),
    *(".nan", "-.inf", "1e999", "&a [*a]", "*missing", "{a: 1, a: 2}", "[", "{", '"\\ud800"', '"\\0"', "'", "\t", "!"),
    *("? [a]\n: 1", "<<: 1", "a: b: c", "[" * 400, "0x", "0o8", "1:60", "yes", "...", "---", "%YAML 9"),
)
"""And of a YAML text: what no tree can hold."""
_CHARACTERS = "\0\t\n\r \"'{}[]:,&*#?|-<>=!%@\\`~0aé\u2028\ufeff"


def text(source: str, random: Random) -> str:
    """A text with one to three places spoilt."""
    for _ in range(random.randint(1, 3)):
        source = random.choice(_TEXTS)(source, random)
    return source


def tree(source: Any, random: Random) -> Any:
    """A tree of plain data with one to three places spoilt; the source stays as it is."""
    spoilt = copy.deepcopy(source)
    for _ in range(random.randint(1, 3)):
        places = list(_places(spoilt))
        if not places:
            return random.choice(VALUES)
        random.choice(_TREES)(*random.choice(places), random)
    return spoilt


def broken_json(source: str, random: Random) -> str:
    """A JSON text one of whose numbers is none, or very long: what `json.loads` takes all the same."""
    numbers = [part for part in source.split() if part.rstrip(",").replace(".", "", 1).isdecimal()]
    if not numbers:
        return text(source, random)
    return source.replace(random.choice(numbers), random.choice(("NaN,", "-Infinity,", "1e999,", f"{'9' * 400},")), 1)


def _place(source: str, random: Random) -> int:
    return random.randint(0, len(source))


def _cut(source: str, random: Random) -> str:
    return source[: _place(source, random)]


def _insert(source: str, random: Random) -> str:
    at = _place(source, random)
    inserted: str = random.choice((*_CHARACTERS, random.choice(YAML_ONLY)))
    return source[:at] + inserted + source[at:]


def _drop(source: str, random: Random) -> str:
    at = _place(source, random)
    return source[:at] + source[at + random.randint(1, 5) :]


def _line_again(source: str, random: Random) -> str:
    lines = source.splitlines(keepends=True) or [""]
    lines.insert(random.randint(0, len(lines)), random.choice(lines))
    return "".join(lines)


def _without_line(source: str, random: Random) -> str:
    lines = source.splitlines(keepends=True) or [""]
    del lines[random.randrange(len(lines))]
    return "".join(lines)


def _other_value(source: str, random: Random) -> str:
    lines = source.splitlines()
    with_values = [number for number, line in enumerate(lines) if ":" in line]
    if not with_values:
        return source + random.choice(YAML_ONLY)
    number = random.choice(with_values)
    value = random.choice((random.choice(YAML_ONLY), json.dumps(random.choice(VALUES))))
    lines[number] = f"{lines[number].partition(':')[0]}: {value}"
    return "\n".join(lines) + "\n"


_TEXTS: tuple[Callable[[str, Random], str], ...] = (
    *(_cut, _insert, _drop, _line_again, _without_line),
    *(_other_value,) * 5,
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) of a tree."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield node, key
            yield from _places(value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield node, index
            yield from _places(value)


def _replace(node: Any, key: Any, random: Random) -> None:
    node[key] = copy.deepcopy(random.choice(VALUES))


def _delete(node: Any, key: Any, random: Random) -> None:
    del random, node[key]


def _rename(node: Any, key: Any, random: Random) -> None:
    if isinstance(node, dict):
        node[random.choice((f"{key}x", key[:-1], key.upper(), "", f"{key}.x"))] = node.pop(key)
    else:
        node.insert(key, copy.deepcopy(random.choice(VALUES)))


def _repeat(node: Any, key: Any, random: Random) -> None:
    if isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    else:
        _replace(node, key, random)


def _other_type(node: Any, key: Any, random: Random) -> None:
    """The same value as a text, in a list, as a number."""
    value = node[key]
    number = value if isinstance(value, int | float) else len(str(value))
    node[key] = random.choice((str(value), [value], {"value": value}, number, -number, number * 1e6))


_TREES: tuple[Callable[[Any, Any, Random], None], ...] = (_replace, _replace, _delete, _rename, _repeat, _other_type)
