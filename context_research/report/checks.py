"""The validity of a run as tables: short for the terminal, whole for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from tabulate import tabulate

from context_research.settings.schema import CheckName

_WIDTH = 100


def terminal_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """One line a check over all cases: the worst status, with the evidence of a case that has it."""
    rows = []
    for name in get_args(CheckName):
        found = [(case["name"], check) for case in cases for check in case["validity"] if check["check"] == name]
        if not found:
            continue
        status = next(status for status in ("fail", "pass", "n/a") if any(c["status"] == status for _, c in found))
        those = [(case, check) for case, check in found if check["status"] == status]
        case, check = those[0] if status == "fail" else those[-1]
        where = f"{len(those)} of {len(found)} cases; {case}: " if status != "n/a" else ""
        rows.append((name, shown(check), where + check["evidence"]))
    header = ("check", "status", "evidence")
    return str(tabulate(rows, header, maxcolwidths=[None, None, _WIDTH], disable_numparse=True))


def shown(check: Mapping[str, Any]) -> str:
    """A check's status for readers: a failed one stands out, also where it was allowed to fail."""
    if check["status"] == "fail":
        return "FAIL, allowed" if check.get("allowed") else "FAIL"
    return str(check["status"])


def warning(summary: Mapping[str, Any]) -> str:
    """What a reader must know before any figure, or nothing."""
    failed = [check for case in summary["cases"] for check in case["validity"] if check["status"] == "fail"]
    if wrong := sorted({check["check"] for check in failed if not check.get("allowed")}):
        return f"> **This run does not count: {', '.join(wrong)} failed.** Its figures are in no comparison."
    if allowed := ", ".join(sorted({check["check"] for check in failed})):
        return f"> **{allowed} failed and was allowed to (--allow-invalid).** These are not figures of a sound system."
    return ""
