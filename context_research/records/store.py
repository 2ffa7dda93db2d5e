"""How artifacts are written and read: atomic, checked against their record, no secrets."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from context_research.errors import StorageFailure, UsageProblem
from context_research.records import redact, upgrade
from context_research.records.base import SCHEMA_VERSION, Artifact, Record

Kind = TypeVar("Kind", bound=Artifact)


LAST_WORDS = 4 << 20
"""Bytes that a run keeps for its last words: its record, its summary, its last case's requests, a report's text."""


def now() -> str:
    """The moment, as every artifact writes it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_writable(outputs: Path) -> None:
    """Raises UsageProblem where nothing can be written under `outputs`."""
    try:
        (outputs / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outputs / "runs") as stream:
            fill(stream)
    except OSError as error:
        raise UsageProblem(f"cannot write to the outputs folder {outputs}: {error.strerror} (--outputs)") from None


def fill(stream: IO[bytes]) -> None:
    """Take a run's LAST_WORDS bytes of disk; noise, which no file system compresses."""
    stream.write(os.urandom(LAST_WORDS))
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises StorageFailure, naming `path`, for what can't be written within."""
    try:
        yield
    except OSError as error:
        raise StorageFailure(f"cannot write {path}: {error.strerror or error}") from error


def write(path: Path, artifact: Artifact) -> None:
    """Replace `path` whole: a reader never sees half a file.

    Raises ValueError for a number that is none (NaN, ∞), StorageFailure.
    """
    plain = redact.plain(artifact.model_dump(mode="json", by_alias=True))
    _replace(path, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Replace `path` whole with `text`, less any secret in it. Raises StorageFailure."""
    _replace(path, redact.text(text))


def _replace(path: Path, text: str) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp: its files are readable by their owner alone, and would stay so.
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with scratch.open("x", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, path)  # noqa: PTH105 - one call, on str and Path alike
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise


def append_lines(path: Path, records: Iterable[Record]) -> None:
    """Add one JSON line per record: all of them or, where they can't be written (StorageFailure), none."""
    lines = "".join(json.dumps(record.model_dump(mode="json"), allow_nan=False) + "\n" for record in records)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as stream:
            before = stream.tell()
            try:
                left = memoryview(redact.json_lines(lines).encode())
                while left:
                    left = left[stream.write(left) :]
                os.fsync(stream.fileno())
            except BaseException:
                stream.truncate(before)
                raise


def read(path: Path, kind: type[Kind]) -> Kind:
    """The artifact in `path`, upgraded. Raises UsageProblem: missing, no JSON, not what its record says."""
    try:
        plain = loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else f"corrupt, no valid JSON ({error})"
        raise UsageProblem(f"cannot read {path}: {told}") from None
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UsageProblem(
            f"{path} has schema version {version}, this version reads {SCHEMA_VERSION}: upgrade this one"
        )
    try:
        # By way of JSON: strictly, `"0"` is no number there and a list may be a tuple.
        return kind.model_validate_json(json.dumps(upgrade.artifact(kind.__name__, plain)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise UsageProblem(f"{path} is corrupt or from another version: {where}: {first['msg'][:200]}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageProblem(f"{path} is corrupt or from another version: it lacks {error}") from None


def loads(text: str) -> Any:
    """JSON as we write it. Raises ValueError: no JSON, nested too deeply, a number that no figure of ours can be.

    Python takes NaN and ∞ for JSON; of 1e308 and 1e-308 a ratio would be ∞, and no axis has room for them.
    """
    try:
        return json.loads(text, parse_float=_figure, parse_int=_integer, parse_constant=_figure)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _figure(text: str) -> float:
    value = float(text)
    if value and not 1e-30 <= abs(value) <= 1e30:
        raise ValueError(f"{text[:40]} is no figure")
    return value


def _integer(text: str) -> int:
    return int(text) if len(text) < 30 else int(_figure(text))
