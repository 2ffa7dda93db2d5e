"""Where a run's files are, and how they are written and read: atomic, checked against their JSON Schema, no secrets."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema

from context_research.errors import UsageProblem

SCHEMA_VERSION = 1
SCHEMAS = Path(__file__).parent.parent / "schemas"
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def now() -> str:
    """The moment, as every artifact writes it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_writable(outputs: Path) -> None:
    """Raises UsageProblem where nothing can be written under `outputs`."""
    try:
        (outputs / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outputs / "runs"):
            pass
    except OSError as error:
        raise UsageProblem(f"cannot write to the outputs folder {outputs}: {error.strerror} (--outputs)") from None


def write(path: Path, kind: str, payload: Mapping[str, Any]) -> None:
    """Replace `path` whole, after checking it against schemas/<kind>.schema.json: a reader never sees half a file.

    Raises jsonschema.ValidationError: our own mistake, and nothing is written then.
    """
    payload = json.loads(json.dumps(payload, allow_nan=False, default=str))
    _validator(kind).validate(payload)
    replace(path, json.dumps(payload, indent=2, ensure_ascii=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Replace `path` whole with `text`, less any secret in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: its files are readable by their owner alone, and would stay so.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with scratch.open("x", encoding="utf-8") as stream:
            stream.write(without_secrets(text))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)  # noqa: PTH105 - one call, on str and Path alike
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add one JSON line per record, all in one write."""
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(without_secrets(lines))
        stream.flush()
        os.fsync(stream.fileno())


def read(path: Path, kind: str) -> dict[str, Any]:
    """A checked artifact. Raises UsageProblem: missing, no JSON, not what its schema says."""
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else f"corrupt, no valid JSON ({error})"
        raise UsageProblem(f"cannot read {path}: {told}") from None
    if isinstance(payload, dict) and isinstance(found := payload.get("schema_version"), int) and found > SCHEMA_VERSION:
        raise UsageProblem(f"{path} has schema version {found}, this version reads {SCHEMA_VERSION}: upgrade this one")
    if problem := next(_validator(kind).iter_errors(payload), None):
        where = ".".join(map(str, problem.absolute_path)) or "the whole"
        raise UsageProblem(f"{path} is corrupt or from another version: {where}: {problem.message[:200]}")
    return dict(payload)


def without_secrets(text: str) -> str:
    """`text` without the values of token variables, wherever they got in (a command line), and without URL logins."""
    for name in _SECRETS:
        if len(value := os.environ.get(name, "")) >= 6:
            text = text.replace(value, f"<{name}>")
    return re.sub(r"(?<=://)[^/@\s\"]+@", "<credentials>@", text)


def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)
