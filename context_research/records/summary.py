"""`<experiment>_summary.json`: the figures of every finished case of a run."""

from __future__ import annotations

from collections.abc import Sequence

from context_research.errors import UsageProblem
from context_research.records import store
from context_research.records.case import CaseRecord
from context_research.records.files import RunFiles
from context_research.records.requests import FileRecord
from context_research.records.run import RunHead, RunRecord


class SummaryRecord(RunHead):
    cases: tuple[CaseRecord, ...]
    requests_file: FileRecord | None = None
    """Of the run's requests.jsonl, which the figures come from; None before the first case, and of earlier versions."""

    @classmethod
    def of(cls, run: RunRecord, cases: Sequence[CaseRecord], requests_file: FileRecord | None = None) -> SummaryRecord:
        head = {name: getattr(run, name) for name in RunHead.model_fields}
        return cls(**head, cases=tuple(cases), requests_file=requests_file)


def read(files: RunFiles, run: RunRecord) -> SummaryRecord:
    """The summary of a run that has this metadata.

    Raises UsageProblem: missing, corrupt, another run's, or its requests.jsonl is not what the run wrote.
    """
    path = files.summary(run.experiment)
    summary = store.read(path, SummaryRecord)
    if summary.run_id != run.run_id:
        raise UsageProblem(f"{path} is of run {summary.run_id}, and {files.metadata} of {run.run_id}")
    whole = run.status == "completed"
    if summary.requests_file is not None:
        summary.requests_file.check(files.requests, whole=whole)
    elif whole and any(case.sent_sha256 for case in summary.cases):
        raise UsageProblem(f"{path} was changed after the run: it lacks requests_file")
    return summary
