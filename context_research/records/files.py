"""Where the files of a run and of an A/B are, what they are called, and how they are found again."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from context_research.errors import UsageProblem
from context_research.records.run import RunRecord
from context_research.records.store import read


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
        """Each engine's steps, `<engine>.csv` (engines/step_records.py); an xdist worker's in a folder of its own."""
        return self.folder / "steps"

    @property
    def running(self) -> Path:
        """There as long as the run is under way (records/running.py)."""
        return self.folder / ".running"

    @property
    def sections(self) -> Path:
        """What plugins add to the report."""
        return self.folder / "report_sections.md"

    @property
    def report(self) -> Path:
        return report_of(self.outputs, self.run_id)

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
        return report_of(self.outputs, self.ab_id)


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """The files of one `context-research plan`, `outputs/plans/<plan_id>/` and its report."""

    outputs: Path
    plan_id: str

    @property
    def folder(self) -> Path:
        return self.outputs / "plans" / self.plan_id

    @property
    def record(self) -> Path:
        return self.folder / "capacity_plan.json"

    @property
    def report(self) -> Path:
        return report_of(self.outputs, self.plan_id)


def report_of(outputs: Path, name: str) -> Path:
    """Where the Markdown report called `name` is: a run's or an A/B's id, or the name of a comparison of two runs."""
    return outputs / "reports" / f"{name}.md"


def new_run_id(experiment: str, mode: str, seed: int | None) -> str:
    """Sorts by time, and says what ran: ``20261123-140501-e0-disaggregated-s0-3f9a``."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{now}-{experiment}-{mode}-s{'none' if seed is None else seed}-{secrets.token_hex(2)}"


def check_run_id(files: RunFiles, *, adopts: bool = True) -> None:
    """Raises UsageProblem for a name that can't be one folder, and for a run that has begun already."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", files.run_id, re.ASCII) or files.run_id == "latest":
        raise UsageProblem(f"--run-id {files.run_id!r} can't be a folder's name: use letters, digits, '.', '-' and '_'")
    if files.folder.exists() and not (adopts and is_planned(files)):
        raise UsageProblem(f"run {files.run_id} exists already in {files.outputs}: choose another --run-id")


PLANNED = "planned by init-run: nothing has run yet"


def is_planned(files: RunFiles) -> bool:
    """True for a run that `init-run` made and nothing has adopted."""
    return files.metadata.is_file() and read(files.metadata, RunRecord).reason == PLANNED


def find_run(outputs: Path, name: str) -> RunFiles:
    """The run called `name`: an id, the path of a run's folder, or `latest` for the newest completed one.

    Raises UsageProblem: no run at all, none completed, no such run.
    """
    with _looked_for(name):
        return _find_run(outputs, name)


def _find_run(outputs: Path, name: str) -> RunFiles:
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
        if read(path, RunRecord).status == "completed":
            return RunFiles(outputs, path.parent.name)
    raise UsageProblem(f"none of the {len(runs)} runs in {outputs} completed; name one, such as {runs[-1].parent.name}")


def find(outputs: Path, name: str) -> RunFiles | AbFiles:
    """The A/B or the run called `name`; `latest` is the newest of both. Raises UsageProblem as `find_run` does."""
    with _looked_for(name):
        return _find(outputs, name)


@contextmanager
def _looked_for(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # longer than a name may be, with a NUL in it, not ours to read
        raise UsageProblem(f"{name[:80]!r}: {getattr(error, 'strerror', None) or error}") from None


def _find(outputs: Path, name: str) -> RunFiles | AbFiles:
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
