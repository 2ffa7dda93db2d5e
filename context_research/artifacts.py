"""Where a run's files are, and how they are written and read: atomic, checked against their JSON Schema, no secrets."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema

from context_research.errors import UsageProblem

SCHEMA_VERSION = 1
SCHEMAS = Path(__file__).parent / "schemas"
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run, `outputs/runs/<run_id>/` and its report."""

    outputs: Path
    run_id: str

    @property
    def folder(self) -> Path:
        return self.outputs / "runs" / self.run_id

    @property
    def metadata(self) -> Path:
        return self.folder / "run_metadata.json"

    @property
    def requests(self) -> Path:
        return self.folder / "requests.jsonl"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def steps(self) -> Path:
        """Each engine's steps, `<engine>.csv` (simulation/records.py); an xdist worker's in a folder of its own."""
        return self.folder / "steps"

    @property
    def report(self) -> Path:
        return self.outputs / "reports" / f"{self.run_id}.md"

    def summary(self, experiment: str) -> Path:
        return self.folder / f"{experiment}_summary.json"


@dataclass(frozen=True, slots=True)
class AbFiles:
    """The files of one A/B, `outputs/ab/<ab_id>/` and its report; its sessions are runs like any other."""

    outputs: Path
    ab_id: str

    @property
    def folder(self) -> Path:
        return self.outputs / "ab" / self.ab_id

    @property
    def record(self) -> Path:
        return self.folder / "ab.json"

    @property
    def verdict(self) -> Path:
        return self.folder / "verdict.json"

    @property
    def report(self) -> Path:
        return self.outputs / "reports" / f"{self.ab_id}.md"


def now() -> str:
    """The moment, as every artifact writes it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id(experiment: str, mode: str, seed: int | None) -> str:
    """Sorts by time, and says what ran: ``20261123-140501-e0-disaggregated-s0-3f9a``."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{now}-{experiment}-{mode}-s{'none' if seed is None else seed}-{secrets.token_hex(2)}"


def check_writable(outputs: Path) -> None:
    """Raises UsageProblem where nothing can be written under `outputs`."""
    try:
        (outputs / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outputs / "runs"):
            pass
    except OSError as error:
        raise UsageProblem(f"cannot write to the outputs folder {outputs}: {error.strerror} (--outputs)") from None


def check_run_id(files: RunFiles, *, adopts: bool = True) -> None:
    """Raises UsageProblem for a name that can't be one folder, and for a run that has begun already."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", files.run_id, re.ASCII) or files.run_id == "latest":
        raise UsageProblem(f"--run-id {files.run_id!r} can't be a folder's name: use letters, digits, '.', '-' and '_'")
    if files.folder.exists() and not (adopts and is_planned(files)):
        raise UsageProblem(f"run {files.run_id} exists already in {files.outputs}: choose another --run-id")


PLANNED = "planned by init-run: nothing has run yet"


def is_planned(files: RunFiles) -> bool:
    """True for a run that `init-run` made and nothing has adopted."""
    return files.metadata.is_file() and read(files.metadata, "run_metadata").get("reason") == PLANNED


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


def find_run(outputs: Path, name: str) -> RunFiles:
    """The run called `name`: an id, the path of a run's folder, or `latest` for the newest completed one.

    Raises UsageProblem: no run at all, none completed, no such run.
    """
    if Path(name).parent.name == "runs" and (Path(name) / "run_metadata.json").is_file():
        return RunFiles(Path(name).parent.parent, Path(name).name)
    runs = sorted((outputs / "runs").glob("*/run_metadata.json"), key=_written)
    if not runs:
        raise UsageProblem(f"no run in {outputs}: start one with ./scripts/run_experiment.sh e0")
    if name != "latest":
        if (found := RunFiles(outputs, name)).metadata.is_file():
            return found
        raise UsageProblem(f"no run {name!r} in {outputs}; the newest is {runs[-1].parent.name}")
    for path in reversed(runs):
        if read(path, "run_metadata")["status"] == "completed":
            return RunFiles(outputs, path.parent.name)
    raise UsageProblem(f"none of the {len(runs)} runs in {outputs} completed; name one, such as {runs[-1].parent.name}")


def find(outputs: Path, name: str) -> RunFiles | AbFiles:
    """The A/B or the run called `name`; `latest` is the newest of both. Raises UsageProblem as `find_run` does."""
    if Path(name).parent.name == "ab" and (Path(name) / "ab.json").is_file():
        return AbFiles(Path(name).parent.parent, Path(name).name)
    if (named := AbFiles(outputs, name)).record.is_file():
        return named
    records = sorted((outputs / "ab").glob("*/ab.json"), key=_written)
    if name != "latest" or not records:
        return find_run(outputs, name)
    # An A/B's record is written after each of its sessions.
    runs = [_written(path) for path in (outputs / "runs").glob("*/run_metadata.json")]
    if _written(records[-1]) < max(runs, default=0):
        return find_run(outputs, name)
    return AbFiles(outputs, records[-1].parent.name)


def _written(path: Path) -> float:
    return path.stat().st_mtime


def without_secrets(text: str) -> str:
    """`text` without the values of token variables, wherever they got in (a command line), and without URL logins."""
    for name in _SECRETS:
        if len(value := os.environ.get(name, "")) >= 6:
            text = text.replace(value, f"<{name}>")
    return re.sub(r"(?<=://)[^/@\s\"]+@", "<credentials>@", text)


def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)
