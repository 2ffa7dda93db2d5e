"""A check's result, made: pass or fail, n/a, not provable (docs/validity.md)."""

from __future__ import annotations

from context_research.records.case import CheckRecord


def judged(name: str, good: bool, evidence: str) -> CheckRecord:
    return CheckRecord(check=name, status="pass" if good else "fail", evidence=evidence)


def not_applicable(name: str, why: str) -> CheckRecord:
    return CheckRecord(check=name, status="n/a", evidence=why)


def not_provable(name: str, why: str) -> CheckRecord:
    return CheckRecord(check=name, status="not provable", evidence=why)
