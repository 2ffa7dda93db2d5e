"""What is kept of a run that ended before all of its cases were measured, and which runs can't be gone on with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from context_research.errors import UsageProblem
from context_research.records import running
from context_research.records import summary as summaries
from context_research.records.files import PLANNED, RunFiles
from context_research.records.run import RunRecord
from context_research.records.summary import SummaryRecord


@dataclass(frozen=True, slots=True)
class Kept:
    """A run that can go on. All of the summary's cases passed."""

    files: RunFiles
    run: RunRecord
    summary: SummaryRecord
    stopped: str
    """UTC: when it ended; where it was killed, when its record was last written."""

    @property
    def told(self) -> str:
        """``after 6 of 11 cases``"""
        return f"after {len(self.summary.cases)} of {self.run.planned} cases"

    @property
    def seconds(self) -> float:
        """How long it was at work."""
        return self.run.seconds_until(self.stopped)


def of(files: RunFiles) -> Kept:
    """Raises UsageProblem: it completed, runs now, never began, or a case of it did not pass.

    What was measured and did not pass is never measured again until it does.
    """
    run, name = running.read(files), f"run {files.run_id}"
    if run.status == "completed":
        raise UsageProblem(f"{name} completed: there is nothing to resume; leave --resume out to run anew")
    if run.status == "running" and run.reason != running.KILLED:
        raise UsageProblem(f"{name} is running now (pid {run.pid}): wait for its end, or end it")
    if run.reason == PLANNED:
        raise UsageProblem(f"{name} is planned and has not begun: give --run-id {files.run_id} instead of --resume")
    if any(files.logs.glob("gw*")):
        raise UsageProblem(f"{name} had xdist workers, each on devices of its own: run it anew, without --resume")
    summary = summaries.read(files, run)
    for case in summary.cases:
        outcome = case.status if case.status != "passed" else run.cases.get(case.name, "passed")
        if outcome != "passed":
            raise UsageProblem(f"{name}: its case {case.name} was measured and is {outcome}: run it anew")
    written = datetime.fromtimestamp(files.metadata.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return Kept(files, run, summary, run.finished or written)
