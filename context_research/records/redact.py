"""Keeps secrets out of all that is written: artifacts, reports, references, kept logs, rows.

By name: a value whose key or variable is called like a secret. By value: what such a variable of the environment, or
such a setting, holds is replaced wherever else it stands: in a command line, an error, a log.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

Plain = TypeVar("Plain")
_WORDS = frozenset({
    "apikey", "auth", "authorization", "bearer", "cookie", "cred", "credential", "credentials", "creds", "jwt",
    "key", "login", "oauth", "pass", "passphrase", "passwd", "password", "psk", "pwd", "secret", "secrets", "token",
})  # fmt: skip
_ENDS = ("token", "secret", "password", "passwd", "passphrase", "credential", "credentials", "apikey", "oauth")
"""Also where nothing stands between: AUTHTOKEN."""
_COUNTED = frozenset({"key", "token"})
"""Words of names that may be those of numbers, too: `kv_bytes_per_token`."""
_SHORTEST = 6
"""Characters of a value that is looked for: a shorter one may be any word or number."""
_NUMBER = re.compile(r"-?[\d.]+(e-?\d+)?")
_SWITCH = re.compile(r"(?i)true|false|none|null|yes|no|on|off|")
_LOGIN = re.compile(r"(?<=://)[^/@\s\"]+@")
_GIVEN = re.compile(r"([A-Za-z_][\w.-]*)=([^\s,;&|'\"`<>]+)")
_WHERE_GIVEN = "settings_sources"
"""Its keys are settings, its values are not theirs."""

_seen: dict[str, str] = {}
"""Value -> what stands in its place, of secret settings that artifacts of this process had."""


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what is called `name` is one: HF_TOKEN, UCX_AUTH, `engine.args.hf_token`, but not `output_tokens`."""
    words = _words(name)
    if words in (["pwd"], ["oldpwd"], ["key"]):  # the working directory; the key of a reference
        return False
    return any(word in _WORDS or word.endswith(_ENDS) for word in words)


def _words(name: str) -> list[str]:
    last = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.rpartition(".")[2]).lower()
    return [word for word in re.split(r"[^a-z0-9]+", last) if word]


def _holds(name: str, value: object) -> bool:
    """Whether `value` is a secret, as what is called `name`: `hf_token: true` is none, nor is a number of tokens."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not is_secret(name):
        return False
    shown = str(value)
    if _SWITCH.fullmatch(shown):
        return False
    return not _NUMBER.fullmatch(shown) or not _COUNTED.issuperset(word for word in _words(name) if word in _WORDS)


def plain(data: Plain) -> Plain:
    """Plain data without secrets, for JSON. What its secret keys hold is remembered, for all that is written later."""
    _seen.update(_held(data))
    return cast(Plain, _cleaned(data, _values()))


def text(written: str) -> str:
    """Text without secrets: Markdown, a message, a log."""
    return _clean(written, _values())


def json_lines(lines: str) -> str:
    """JSON Lines without secrets. Numbers are let alone: a password may be one."""
    values = _values()
    if "=" not in lines and "://" not in lines and not any(_escaped(value) in lines for value in values):
        return lines
    each = (_cleaned(json.loads(line), values) for line in lines.splitlines())
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in each)


def log(path: Path) -> None:
    """A kept log without secrets; nothing may be writing to it now. A log that can't be read stays as it is."""
    try:
        before = path.read_text(encoding="utf-8", errors="surrogateescape")
        if (after := text(before)) != before:
            with path.open("r+", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(after)
                stream.truncate()
    except OSError:
        return


def _values() -> dict[str, str]:
    """Value -> what stands in its place, the longest first: one may hold another."""
    # A path is no secret itself: SSH_AUTH_SOCK.
    named = {
        value: f"<{name}>"
        for name, value in os.environ.items()
        if is_secret(name) and not (value.startswith("/") and Path(value).exists())
    }
    found = _seen | named
    return {value: found[value] for value in sorted(found, key=len, reverse=True) if len(value) >= _SHORTEST}


def _held(data: object) -> Iterator[tuple[str, str]]:
    """What secret keys hold in plain data."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == _WHERE_GIVEN:
                continue
            if _holds(key, value):
                yield str(value), f"<{key}>"
            yield from _held(value)
    elif isinstance(data, list | tuple):
        for each in data:
            yield from _held(each)


def _cleaned(data: object, values: Mapping[str, str]) -> object:
    if isinstance(data, str):
        return _clean(data, values)
    if isinstance(data, Mapping):
        return {key: _kept(key, value, values) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_cleaned(each, values) for each in data]
    return data


def _kept(key: str, value: object, values: Mapping[str, str]) -> object:
    if key == _WHERE_GIVEN:
        return value
    return f"<{key}>" if _holds(key, value) else _cleaned(value, values)


def _clean(written: str, values: Mapping[str, str]) -> str:
    for value, name in values.items():
        if value in written:
            # A number is no part of another one.
            bounded = rf"(?<![\w.]){re.escape(value)}(?![\w.])" if _NUMBER.fullmatch(value) else re.escape(value)
            written = re.sub(bounded, name.replace("\\", "\\\\"), written)
    if "=" in written:
        written = _GIVEN.sub(_given, written)
    return _LOGIN.sub("<credentials>@", written) if "://" in written else written


def _given(found: re.Match[str]) -> str:
    """``engine.args.hf_token=…``"""
    name, value = found.groups()
    return f"{name}=<{name.rpartition('.')[2]}>" if _holds(name, value) else found[0]


def _escaped(value: str) -> str:
    """As it stands within a JSON string."""
    return json.dumps(value)[1:-1]
