"""What a terminal gets after a run: about five lines. The report has all of it, and more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from context_research.measure.checks.registry import STATUSES
from context_research.records.case import CaseRecord
from context_research.records.run import RunRecord
from context_research.report import checks, loads
from context_research.report.run import about
from context_research.report.tables import quantity

_SHOWN = (("TTFT", "ttft", "p50"), ("TPOT", "tpot", "p50"), ("SLOs met", "attainment", "mean"))
"""Called, metric, statistic: where cases have them."""
_LONGEST = 300
"""Letters of a check's evidence."""


def lines(run: RunRecord, cases: Sequence[CaseRecord]) -> Iterator[str]:
    """What ran, its figures, the checks; what failed or has no proof has a line of its own."""
    yield _what_ran(run, cases)
    yield from _figures(cases)
    yield from _checks(cases)
    for case in cases:
        if case.reruns:
            yield f"{case.name} was run again, {len(case.reruns)} ×: {case.reruns[-1]}"


def _what_ran(run: RunRecord, cases: Sequence[CaseRecord]) -> str:
    """``e0, tiny-qwen3 float32, vLLM on 2 CPU cores, aggregated, seed 0: 2 of 2 cases passed``"""
    counted = Counter(case.status for case in cases)
    planned = run.planned or len(cases)
    of = f"of {planned} case{'' if planned == 1 else 's'}"
    told = ", ".join(f"{count} {of} {status}" for status, count in counted.items()) or f"0 {of} finished"
    return f"{about(run, cases)}, {run.serving.mode}, seed {run.seed}: {told}"


def _figures(cases: Sequence[CaseRecord]) -> Iterator[str]:
    """``TTFT p50 36.4 ms (p1024-c1) to 764 ms (p4096-c8); …``, then the same of each class."""
    names = list(dict.fromkeys(name for case in cases for name in loads.classes(case)))
    for name in ("", *names):
        parts = [_span(cases, f"{name}.{metric}" if name else metric, what, called) for called, metric, what in _SHOWN]
        if known := "; ".join(filter(None, parts)):
            yield f"{name or 'figures'}: {known}"
    if overloaded := ", ".join(case.name for case in cases if case.overloaded):
        yield f"OVERLOADED: {overloaded}; latencies would only say how long the run was"


def _span(cases: Sequence[CaseRecord], metric: str, statistic: str, called: str) -> str:
    """The lowest and the highest of the cases; of one case its value."""
    found = [
        (value, case.name, record.unit)
        for case in cases
        if (record := case.metrics.get(metric)) and (value := record.value(statistic)) is not None
    ]
    if not found:
        return ""
    (low, where, unit), (high, there, _) = min(found), max(found)
    shown = f"{called} {statistic}" if statistic != "mean" else called
    if low == high:
        return f"{shown} {quantity(low, unit)}"
    return f"{shown} {quantity(low, unit)} ({where}) to {quantity(high, unit)} ({there})"


def _checks(cases: Sequence[CaseRecord]) -> Iterator[str]:
    """How many checks came out how, over all cases each by its worst; those that didn't pass by name."""
    worst: dict[str, str] = {}
    for name in checks.names(cases):
        statuses = [check.status for case in cases for check in case.validity if check.check == name]
        worst[name] = next(status for status in STATUSES if status in statuses)
    if worst:
        counted = Counter(worst.values())
        yield f"checks: {', '.join(f'{counted[each]} {each}' for each in STATUSES if counted[each])}"
    for name in (name for name, status in worst.items() if status == "fail"):
        yield _failed(cases, name)
    if lacking := [name for name, status in worst.items() if status == "not provable"]:
        first = next(check for case in cases for check in case.not_provable if check.check == lacking[0])
        yield f"NOT PROVABLE: {', '.join(lacking)} ({first.check}: {_short(first.evidence)})"


def _failed(cases: Sequence[CaseRecord], name: str) -> str:
    """``client FAIL in 2 of 2 cases; p64-c1: p99 …``"""
    results = [(case.name, check) for case in cases for check in case.validity if check.check == name]
    failed = [(where, check) for where, check in results if check.status == "fail"]
    where, first = failed[0]
    return f"{name} {checks.shown(first)} in {len(failed)} of {len(results)} cases; {where}: {_short(first.evidence)}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
