"""The validity of a run in words: what must be said before any figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from context_research.records.case import CaseRecord, CheckRecord


def names(cases: Iterable[CaseRecord]) -> list[str]:
    """The checks that cases have, in the order of the registry that judged them."""
    return list(dict.fromkeys(check.check for case in cases for check in case.validity))


def shown(check: CheckRecord) -> str:
    """A check's status for readers: a failed one stands out, also where it was allowed to fail; so does one without
    proof."""
    if check.status == "fail":
        return "FAIL, allowed" if check.allowed else "FAIL"
    return "NOT PROVABLE" if check.status == "not provable" else check.status


def unproven(cases: Iterable[CaseRecord]) -> list[str]:
    """The checks whose evidence could not be had, in any of the cases."""
    cases = list(cases)
    lacking = {check.check for case in cases for check in case.not_provable}
    return [name for name in names(cases) if name in lacking]


def label(cases: Iterable[CaseRecord]) -> str:
    """What stands before a figure of cases without proof, or nothing: ``NOT PROVABLE (cache, pressure): ``."""
    return f"NOT PROVABLE ({', '.join(lacking)}): " if (lacking := unproven(cases)) else ""


def warning(cases: Sequence[CaseRecord]) -> str:
    """What a reader must know before any figure, or nothing."""
    return "\n\n".join(filter(None, (_failed(cases), _unproven(cases), _rerun(cases))))


def _failed(cases: Sequence[CaseRecord]) -> str:
    if wrong := sorted({check.check for case in cases for check in case.failed}):
        return f"> **This run does not count: {', '.join(wrong)} failed.** Its figures are in no comparison."
    if allowed := ", ".join(sorted({check.check for case in cases for check in case.allowed})):
        return f"> **{allowed} failed and was allowed to (--allow-invalid).** These are not figures of a sound system."
    return ""


def _unproven(cases: Sequence[CaseRecord]) -> str:
    if not (lacking := unproven(cases)):
        return ""
    why = {check.check: check.evidence for case in cases for check in case.not_provable}
    reasons = "; ".join(f"{name} ({why[name]})" for name in lacking)
    return f"> **NOT PROVABLE: {reasons}.** Nothing shows that these figures are free of what the checks look for."


def _rerun(cases: Sequence[CaseRecord]) -> str:
    """A test that is run until it passes has had its pick of figures."""
    if not (again := [case for case in cases if case.reruns]):
        return ""
    told = ", ".join(f"{case.name} {len(case.reruns)} ×" for case in again)
    return f"> **Run again after it had failed: {told}.** Figures are of the last time; before: {again[0].reruns[-1]}"
