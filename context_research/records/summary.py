"""`<experiment>_summary.json`: the figures of every finished case of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from context_research.errors import UsageProblem
from context_research.records import store
from context_research.records.base import Count, Record
from context_research.records.case import CaseRecord, MetricRecord
from context_research.records.files import RunFiles
from context_research.records.requests import FileRecord
from context_research.records.run import RunHead, RunRecord
from context_research.settings.workload import Slo

Bound = Literal["exact", "at least", "at most"]


class PointRecord(Record):
    """One rate, in requests per second and device, as it came: requests that were due in its windows, and that met the
    limits."""

    case: str
    rate: float
    due: Count
    met: Count
    overloaded: bool


class CapacityRecord(Record):
    """The highest rate per device at which enough requests met an SLO (measure/capacity.py).

    `bound` says `at least` or `at most` where the grid of rates ended before; `rate` is then its end.
    """

    load: str
    """What else the cases' axes say; empty where that is all there is."""
    within: str
    slo: Slo
    rate: float
    bound: Bound
    points: tuple[PointRecord, ...]

    @property
    def name(self) -> str:
        """Where a case's name would be: ``within TTFT 2 s, TPOT 50 ms``, after the load where there are several."""
        return f"{self.load} within {self.within}".strip()

    @property
    def metric(self) -> MetricRecord:
        """As a metric of one sample; a bound has no figure, and says so."""
        missing = None if self.bound == "exact" else f"{self.bound} {self.rate:.3g}/s: the grid of rates ends there"
        value = self.rate if missing is None else None
        return MetricRecord(
            unit="1/s",
            count=1 if missing is None else 0,
            mean=value,
            p50=value,
            p90=None,
            p95=None,
            p99=None,
            missing=missing,
            lower_is_better=False,
            statistic="mean",
        )


class SummaryRecord(RunHead):
    cases: tuple[CaseRecord, ...]
    capacities: tuple[CapacityRecord, ...] = Field(default=(), exclude_if=lambda some: not some)
    """Of runs that measured a load at several rates."""
    requests_file: FileRecord | None = None
    """Of the run's requests.jsonl, which the figures come from; None before the first case, and of earlier versions."""

    @classmethod
    def of(
        cls,
        run: RunRecord,
        cases: Sequence[CaseRecord],
        requests_file: FileRecord | None = None,
        capacities: Sequence[CapacityRecord] = (),
    ) -> SummaryRecord:
        head = {name: getattr(run, name) for name in RunHead.model_fields}
        return cls(**head, cases=tuple(cases), capacities=tuple(capacities), requests_file=requests_file)


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
