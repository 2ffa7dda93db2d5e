"""One time that a test of ours ran. There is another where a plugin has a failed test run again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from context_research.records.case import CaseRecord, FinishedCase


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a test of ours ended: what pytest says of it, and the case that it measured, if it came to that."""

    nodeid: str
    passed: bool
    again: bool
    """Whether a plugin has it run again."""
    failure: str
    finished: FinishedCase | None

    @classmethod
    def of(cls, report: pytest.TestReport, left: str | None) -> Attempt:
        """`left`: the FinishedCase on the report, as JSON."""
        finished = FinishedCase.model_validate_json(left) if left else None
        told = (finished.case.failure if finished else None) or str(report.longrepr).strip()[-2000:]
        return cls(report.nodeid, report.passed, str(report.outcome) == "rerun", told, finished)

    @property
    def name(self) -> str:
        return case_name(self.nodeid)

    def case(self, finished: FinishedCase) -> CaseRecord:
        """Its record: the test may have found fault with it after it was measured."""
        if self.passed or finished.case.status != "passed":
            return finished.case
        return finished.case.model_copy(update={"status": "failed", "failure": self.failure})


def case_name(nodeid: str) -> str:
    """``…/test_e0.py::test_e0[p64-c1]@group`` -> ``p64-c1``; a test without parameters keeps its own name."""
    test = nodeid.rpartition("::")[2].partition("@")[0]
    return test.partition("[")[2].removesuffix("]") or test
