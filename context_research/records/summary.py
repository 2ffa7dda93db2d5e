"""`<experiment>_summary.json`: the figures of every finished case of a run."""

from __future__ import annotations

from collections.abc import Sequence

from context_research.records.case import CaseRecord
from context_research.records.run import RunHead, RunRecord


class SummaryRecord(RunHead):
    cases: tuple[CaseRecord, ...]

    @classmethod
    def of(cls, run: RunRecord, cases: Sequence[CaseRecord]) -> SummaryRecord:
        return cls(**{name: getattr(run, name) for name in RunHead.model_fields}, cases=tuple(cases))
