"""Traces: requests as somebody recorded them. Three formats, by their first line:

- Mooncake's JSONL: `timestamp` in ms, `input_length`, `output_length`, `hash_ids` of the prompt's blocks of 512 tokens,
  the last one partial (github.com/kvcache-ai/Mooncake, FAST25-release/traces).
- Azure's CSV: ``TIMESTAMP,ContextTokens,GeneratedTokens`` (github.com/Azure/AzurePublicDataset).
- JSONL of ours (`rows`): `at` in seconds, `prompt_tokens`, `output_tokens`, and, where it has one, its `class`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from context_research.errors import UsageProblem
from context_research.settings.workload import Trace

MOONCAKE_BLOCK = 512
"""Prompt tokens of one of `hash_ids`."""
_CLASS = re.compile(r"[a-z][a-z0-9_]*")
_AZURE = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
_ON_GRID = 0.9
"""Share of gaps that are whole ticks, to within 1 %, where moments lie on a grid. Mooncake's clock drifts by ms."""

Row = tuple[float, int, int, str]
"""Seconds, prompt tokens, output tokens, class."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A trace's requests in order of time. `at`: seconds; a request without a class has an empty class name."""

    at: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    class_names: tuple[str, ...]
    left_out: int = 0
    """Rows of the slice whose prompts are too long."""
    seconds: float = 0.0
    """How long the slice goes on, scaled as its moments are."""
    sha256: str = ""
    """Of the whole file."""
    tick: float | None = None
    """Seconds of the grid that the file's moments lie on, before any scaling; None where they lie on none."""

    def some(self, chosen: NDArray[np.intp]) -> Rows:
        """The rows of these indices."""
        names = tuple(self.class_names[index] for index in chosen)
        return replace(
            self,
            at=self.at[chosen],
            prompt_tokens=self.prompt_tokens[chosen],
            output_tokens=self.output_tokens[chosen],
            class_names=names,
        )


def read(file: str, format: str = "auto") -> Rows:
    """A whole trace, its first row at 0 s. Raises UsageProblem: what can't be read, with the line that is wrong."""
    try:
        path = Path(file).expanduser()
        found = path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody; a path that can be none
        raise _unreadable(file, error) from None
    return _read(path, format, (found.st_mtime_ns, found.st_size))


def replayed(trace: Trace, rng: np.random.Generator | None) -> Rows:
    """The rows of a trace that are replayed, in seconds from the slice's start.

    `rng` spreads moments that lie on a grid evenly over their tick, the rows' order kept; None leaves them on it.
    Raises UsageProblem: a file that can't be read, a slice without rows.
    """
    every = read(trace.file, trace.format)
    begin, end = trace.rows or (0, len(every.at))
    index = np.arange(len(every.at))
    until = math.inf if trace.seconds is None else trace.start_s + trace.seconds
    inside = (index >= begin) & (index < end) & (every.at >= trace.start_s) & (every.at < until)
    short = every.prompt_tokens <= (trace.longest_prompt or math.inf)
    if not inside.any():
        told = f"rows {begin} to {end}" if trace.rows else f"{trace.start_s:g} s to {until:g} s"
        raise UsageProblem(
            f"{trace.file}: no row lies in the slice of {told}; it has {len(every.at)}, over {every.at[-1]:.3f} s"
        )
    if not (inside & short).any():
        raise UsageProblem(f"{trace.file}: every prompt of the slice is over longest_prompt, {trace.longest_prompt}")
    rows = every.some(np.flatnonzero(inside & short))
    start = float(every.at[begin]) if trace.rows else trace.start_s
    at, end_s = rows.at - start, min(until, float(every.at[min(end, len(every.at)) - 1])) - start
    if rng is not None and trace.ticks == "spread" and every.tick is not None:
        at = np.sort(at + rng.uniform(0.0, every.tick, size=at.size))
    left_out, scale = int((inside & ~short).sum()), trace.time_scale
    return replace(rows, at=at * scale, left_out=left_out, seconds=(end_s + (every.tick or 0.0)) * scale)


@lru_cache(maxsize=16)
def _read(path: Path, format: str, _version: tuple[int, int]) -> Rows:
    """What is read is kept for as long as the file's `_version`, when it was changed and its size, stays."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:  # no text
        raise _unreadable(path, error) from None
    filled = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(filled, None)
    if first is None:
        raise UsageProblem(f"trace {path} is empty")
    parse = _PARSERS[_format_of(first[1], path) if format == "auto" else format]
    rows = list(parse(chain([first], filled), path))
    if not rows:
        raise UsageProblem(f"trace {path} has no rows")
    at, prompts, outputs, names = zip(*rows, strict=True)
    moments = np.array(at, dtype=np.float64) - min(at)
    order = np.argsort(moments, kind="stable")
    whole = Rows(
        at=moments,
        prompt_tokens=np.array(prompts, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
        class_names=names,
        sha256=sha256(content).hexdigest(),
        tick=_tick(moments[order]),
    )
    return whole.some(order)


def _tick(at: NDArray[np.float64]) -> float | None:
    """Seconds of the grid that moments lie on, where some of them are shared; None where there is none."""
    gaps = np.diff(np.unique(at))
    if not gaps.size or gaps.size + 1 == at.size:
        return None
    shortest = np.percentile(gaps, 5, method="lower")  # a few rows beside the grid don't hide it
    ticks = gaps / shortest
    on_grid = np.abs(ticks - np.rint(ticks)) < 0.01
    if on_grid.mean() < _ON_GRID:
        return None
    return float(np.median(gaps[on_grid] / np.rint(ticks[on_grid])))


def _format_of(first: str, path: Path) -> str:
    if first.lstrip().startswith("{"):
        return "mooncake" if '"timestamp"' in first else "rows"
    if first.split(",")[0].strip().upper() == "TIMESTAMP":
        return "azure"
    raise UsageProblem(
        f"{path}:1: no trace that is known here begins so: JSON lines of Mooncake's (timestamp, …) or of ours (at, …), "
        f"or {','.join(_AZURE)}"
    )


def _mooncake(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    for number, line in lines:
        fields = _object(line, path, number, ("timestamp", "input_length", "output_length", "hash_ids"))
        prompt = _tokens(fields["input_length"], "input_length", path, number)
        output = _tokens(fields["output_length"], "output_length", path, number)
        blocks, wanted = fields["hash_ids"], -(-prompt // MOONCAKE_BLOCK)
        if not isinstance(blocks, list) or len(blocks) != wanted:
            told = f"{len(blocks)}" if isinstance(blocks, list) else f"{blocks!r:.40}"
            swapped = isinstance(blocks, list) and len(blocks) == -(-output // MOONCAKE_BLOCK)
            hint = "; it fits output_length: the two lengths are swapped" if swapped else ""
            raise _wrong(
                path,
                number,
                f"{prompt} input tokens are {wanted} blocks of {MOONCAKE_BLOCK}, hash_ids has {told}{hint}",
            )
        yield _seconds(fields["timestamp"], "timestamp", path, number) / 1000, prompt, output, ""


def _ours(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    wanted = ("at", "prompt_tokens", "output_tokens")
    for number, line in lines:
        fields = _object(line, path, number, wanted)
        if more := sorted(set(fields) - {*wanted, "class"}):
            raise _wrong(path, number, f"unknown key {more[0]!r:.40}; a row has {', '.join(wanted)}, class")
        name = fields.get("class") or ""
        if name and not (isinstance(name, str) and _CLASS.fullmatch(name)):
            raise _wrong(path, number, f"class {name!r:.40}: a name of small letters, digits and _ is asked for")
        prompt = _tokens(fields["prompt_tokens"], "prompt_tokens", path, number)
        output = _tokens(fields["output_tokens"], "output_tokens", path, number)
        yield _seconds(fields["at"], "at", path, number), prompt, output, str(name)


def _azure(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[Row]:
    rows = iter(lines)
    number, header = next(rows)
    names = [name.strip() for name in header.split(",")]
    if missing := [name for name in _AZURE if name not in names]:
        raise _wrong(path, number, f"no column {missing[0]}; the columns are {', '.join(_AZURE)}")
    moment, context, generated = (names.index(name) for name in _AZURE)
    for number, line in rows:
        fields = line.split(",")
        if len(fields) != len(names):
            raise _wrong(path, number, f"{len(fields)} fields, the header has {len(names)}")
        prompt, output = (
            _tokens(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text, name, path, number)
            for name, text in ((_AZURE[1], fields[context].strip()), (_AZURE[2], fields[generated].strip()))
        )
        try:
            at = datetime.fromisoformat(fields[moment].strip())
        except ValueError:
            raise _wrong(path, number, f"TIMESTAMP {fields[moment]!r:.40} is no date and time") from None
        yield (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp(), prompt, output, ""


_PARSERS: dict[str, Callable[[Iterable[tuple[int, str]], Path], Iterator[Row]]] = {
    "mooncake": _mooncake,
    "azure": _azure,
    "rows": _ours,
}


def _object(line: str, path: Path, number: int, wanted: tuple[str, ...]) -> dict[str, object]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, number, f"no JSON: {getattr(error, 'msg', type(error).__name__)}") from None
    if not isinstance(fields, dict):
        raise _wrong(path, number, "no JSON object with " + ", ".join(wanted))
    if missing := [key for key in wanted if key not in fields]:
        raise _wrong(path, number, f"without {missing[0]}; a row has {', '.join(wanted)}")
    return fields


def _tokens(value: object, name: str, path: Path, number: int) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise _wrong(path, number, f"{name} {_shown(value)} is no number of tokens from 1")
    return value


def _seconds(value: object, name: str, path: Path, number: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:  # NaN neither
        raise _wrong(path, number, f"{name} {_shown(value)} is no moment")
    return float(value)


def _shown(value: object) -> str:
    """Ints of thousands of digits can't be shown as text."""
    return "that is so large" if isinstance(value, int) and abs(value) >= 1 << 63 else f"{value!r:.40}"


def _wrong(path: Path, number: int, told: str) -> UsageProblem:
    return UsageProblem(f"{path}:{number}: {told}")


def _unreadable(file: str | Path, error: Exception) -> UsageProblem:
    return UsageProblem(f"cannot read trace {str(file)!a}: {getattr(error, 'strerror', None) or error}")
