"""The verdicts as tables: whole for the report, short for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tabulate import tabulate

from context_research.compare.statistics import Verdict
from context_research.compare.verdict import Findings
from context_research.report import simulated
from context_research.report.tables import quantity, ratios, table
from context_research.report.words import by_metric, called, name, pairs_told

_WIDTH = 48


def terminal_table(findings: Findings) -> str:
    """A line for each figure that was named; of their tails the headline tells."""
    rows = [
        (*_place(found, findings), str(found.outcome or "no verdict"), *_ratio(found), *_sides(found), _mark(found))
        for found in by_metric(findings.first)
    ]
    header = (*_places(findings), "verdict", "ratio", "95 % interval", "baseline", "candidate", "")
    return str(tabulate(rows, header, maxcolwidths=[*[None] * (len(header) - 1), _WIDTH], disable_numparse=True))


def whole_table(findings: Findings) -> str:
    """Markdown: each verdict with its figures, both tests' p, and why."""
    run = findings.comparison.baseline.runs[0].metadata
    if not findings.measured:
        header = (*_places(findings), "ratio", "baseline", "candidate", "simulator's error")
        return table(
            (
                (
                    *_place(found, findings),
                    _ratio(found)[0],
                    *_sides(found),
                    simulated.of_figure(run, found.pairs.metric, found.pairs.statistic),
                )
                for found in by_metric(findings.primary)
            ),
            header,
        )
    header = (*_places(findings), "verdict", "ratio", "95 % interval", "baseline", "candidate", "p", "p, sign flips")
    rows = (
        (
            *_place(found, findings),
            str(found.outcome),
            *_ratio(found),
            *_sides(found),
            _p(found),
            _number(found.p_sign_flip),
            _why(found),
        )
        for found in by_metric(findings.primary)
    )
    return table(rows, (*header, "why"))


def descriptive_table(findings: Findings) -> str:
    """Markdown: ratio and interval of what was not judged."""
    rows = [(*_place(found, findings), *_ratio(found), *_sides(found)) for found in findings.descriptive]
    return table(rows, (*_places(findings), "ratio", "95 % interval", "baseline", "candidate"))


def _ratio(found: Verdict) -> tuple[str, str]:
    """Of the means, and its interval."""
    told, low, high = ratios(found.ratio, found.low, found.high, least=3)
    return told, "–" if found.low is None else f"{low} to {high}"


def _sides(found: Verdict) -> tuple[str, str]:
    """Each side's geometric mean, so that their ratio is the ratio; the arithmetic one where a value is 0."""
    values = found.pairs.complete
    if not values:
        return "–", "–"
    means: Iterable[float] = found.pairs.means
    if found.pairs.have_ratios:
        means = (math.exp(sum(math.log(pair[side]) for pair in values) / len(values)) for side in (0, 1))
    first, second = (quantity(mean, found.pairs.unit) for mean in means)
    return first, second


def _places(findings: Findings) -> tuple[str, ...]:
    return ("metric", "case", *(("arm",) if len(findings.comparison.candidates) > 1 else ()))


def _place(found: Verdict, findings: Findings) -> tuple[str, ...]:
    """What identifies a row; the arm where there are several."""
    arms = {side.arm: called(side, findings) for side in findings.comparison.candidates}
    return (name(found), found.pairs.case, *((arms[found.pairs.arm],) if len(arms) > 1 else ()))


def _p(found: Verdict) -> str:
    """The adjusted one behind the outcome: that of a difference, or that of its being at least the margin."""
    return _number(found.p_equivalent_adjusted if found.outcome == "equivalent" else found.p_adjusted)


def _number(p: float | None) -> str:
    return "–" if p is None else f"{p:.2g}" if p >= 0.0001 else "< 0.0001"


def _mark(found: Verdict) -> str:
    """Short: what a terminal's reader needs beside the outcome."""
    if found.outcome == "undecided":
        return _would_tell(found) or found.reason
    return found.fragile and f"fragile: {found.fragile}"


def _would_tell(found: Verdict) -> str:
    return pairs_told(len(found.pairs.baseline), [found.pairs_needed]) if found.pairs_needed else ""


def _why(found: Verdict) -> str:
    needed = f"at this noise {told}" if (told := _would_tell(found)) else ""
    fragile = f"† {found.fragile}" if found.fragile else ""
    return "; ".join(part for part in (found.reason, needed, fragile) if part)
