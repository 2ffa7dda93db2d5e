"""The verdict in words, for whoever acts on it: what got better or worse, where, by how much, and what would decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from context_research.backends.registry import named
from context_research.compare.ab.looks import listed
from context_research.compare.comparison import Side
from context_research.compare.family import class_of
from context_research.compare.statistics import MIN_PAIRS, Verdict
from context_research.compare.verdict import Findings
from context_research.measure.metrics import METRICS
from context_research.report import checks, simulated

OUTCOMES = ("better", "worse", "equivalent", "undecided")
_ACRONYMS = ("ttft", "tpot", "itl", "e2e")
_OWN = {metric.name: metric.statistic for metric in METRICS} | {"capacity": "mean"}
_MOST_NAMED = 3
"""Cases, or fragile figures, that a sentence names; of more it gives the number."""
_OUT_OF_REACH = 200
"""Pairs; how many more it would take makes no difference."""
_FACTOR = 3.0
"""From this ratio on it is told as such, × 3.5: 250 % is hard to read."""


def sentences(findings: Findings) -> list[tuple[str, str]]:
    """For each candidate who is told of, and what: ``("disaggregated against aggregated, 6 pairs", "TTFT worse …")``.

    Then, without anyone in front, what holds for all of them: how far it got, which verdicts may not last. In Markdown.
    """
    comparison = findings.comparison
    labels = named(comparison.baseline.runs[0].metadata.backend).labels
    count = len(comparison.baseline.units)
    pairs = f"{count} pair{'' if count == 1 else 's'}"
    told = []
    for side in comparison.candidates:
        who = f"{side.label} against {comparison.baseline.label}, {pairs}"
        if not findings.measured:
            who = f"{labels.mark}, no verdict: {who}"
        own = [found for found in findings.primary if found.pairs.arm == side.arm and found.asked]
        own, capacities = _apart(own)
        figures = dict.fromkeys(name(found) for found in by_metric(own))
        of_each = ([found for found in own if name(found) == figure] for figure in figures)
        tell = _verdicts if findings.measured else _ratios
        parts = [_carried(found, side.label, comparison.baseline.label) for found in capacities]
        parts += [f"{figure} {tell(some)}." for figure, some in zip(figures, of_each, strict=True)]
        told.append((who, " ".join(parts)))
    notes = [*_progress(findings), *_fragile(findings), *_proof(findings)]
    if not findings.measured:
        notes.append(simulated.in_words(comparison.baseline.runs[0].metadata))
    return [*told, *(("", note) for note in notes)]


def _apart(founds: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Those of latencies and rates, and those of capacity, each of which is an answer by itself."""
    capacities = [found for found in founds if found.pairs.metric == "capacity"]
    return [found for found in founds if found not in capacities], capacities


def _carried(found: Verdict, candidate: str, baseline: str) -> str:
    """``Within TTFT 2 s, TPOT 50 ms at 90%: replicas carry 1.40 × [1.30, 1.50] the traffic per device.``"""
    within = f"{found.pairs.case[0].upper()}{found.pairs.case[1:]}"
    if found.ratio is None or len(found.pairs.complete) < len(found.pairs.baseline):
        return f"{within}: undecided; {found.reason}."
    # The one that carries more is told of: nobody reads that something carries 0.7 times as much.
    who, ratio, ends = candidate, found.ratio, (found.low, found.high)
    if found.outcome == "worse" or (found.outcome is None and found.ratio < 1):
        who, ratio = baseline, 1 / ratio
        ends = (1 / found.high if found.high else None, 1 / found.low if found.low else None)
    interval = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends[0] is not None and ends[1] is not None else ""
    carried = f"{who} carries {ratio:.2f} ×{interval} the traffic per device"
    if found.outcome == "undecided":
        return f"{within}: undecided, {carried}; {_what_would_tell([found])}."
    if found.outcome == "equivalent":
        return f"{within}: equivalent, {carried}."
    return f"{within}: **{carried}**."


def headline(findings: Findings) -> str:
    """What a reader can quote, a line each: ``disaggregated against aggregated, 6 pairs: TTFT worse, by 62 %.``"""
    label = checks.label(findings.comparison.cases)
    lines = (f"{label}{who}: {what}" if who else what for who, what in sentences(findings))
    return "\n".join(lines).replace("**", "")


def paragraphs(findings: Findings) -> str:
    """The same as Markdown: who is compared is bold."""
    label = checks.label(findings.comparison.cases)
    return "\n\n".join(f"**{label}{who}:** {what}" if who else what for who, what in sentences(findings))


def name(found: Verdict) -> str:
    """``TTFT``, ``TTFT p90``, ``chat TTFT``: the statistic stands there where it is not the metric's own."""
    of, metric = class_of(found.pairs.metric)
    shown = metric.upper() if metric in _ACRONYMS else metric
    own = _OWN.get(metric, "p50")
    return " ".join(part for part in (of, shown, found.pairs.statistic * (found.pairs.statistic != own)) if part)


def pairs_told(done: int, needed: Sequence[int]) -> str:
    """``about 14 to 30 pairs would tell``; of more than anyone will measure the bound alone."""
    least, most = min(needed), max(needed)
    if most <= done:  # as many as there are: they were expected to tell, in 8 of 10 cases
        return "a few more pairs would tell"
    first = f"{least} to " if done < least < most and least <= _OUT_OF_REACH else ""
    return (
        f"{f'about {first}{most}' if most <= _OUT_OF_REACH else f'{first}more than {_OUT_OF_REACH}'} pairs would tell"
    )


def by_metric(founds: Sequence[Verdict]) -> list[Verdict]:
    """In their order, a metric's tails behind it."""
    metrics = list(dict.fromkeys(found.pairs.metric for found in founds))
    statistics = list(dict.fromkeys(found.pairs.statistic for found in founds))
    return sorted(
        founds, key=lambda found: (metrics.index(found.pairs.metric), statistics.index(found.pairs.statistic))
    )


def called(side: Side, findings: Findings) -> str:
    """An arm where space is short: its label, or its name where that is shorter and there are several."""
    several = len(findings.comparison.candidates) > 1
    return min(side.arm, side.label, key=len) if several else side.label


def _verdicts(founds: Sequence[Verdict]) -> str:
    """``worse in 4 of 5 cases, by 62 to 110 %; undecided in 1 (p64-c1; about 14 pairs would tell)``"""
    parts: list[str] = []
    for word in OUTCOMES:
        some = [found for found in founds if found.outcome == word]
        if not some:
            continue
        where = "" if len(founds) == 1 else f" in {len(some)}"
        if where and not parts:
            where += f" of {len(founds)} cases"
        inside = [] if len(some) in (len(founds), 0) or len(some) >= _MOST_NAMED else [_cases(some)]
        if word == "undecided":
            inside.append(_what_would_tell(some))
        by = f", {_by(some)}" if word in ("better", "worse") else ""
        note = f" ({'; '.join(filter(None, inside))})" if any(inside) else ""
        parts.append(f"{word}{where}{by}{note}")
    return "; ".join(parts)


def _ratios(founds: Sequence[Verdict]) -> str:
    known = sorted(found.ratio for found in founds if found.ratio is not None)
    if not known:
        return "has no ratio"
    where = "" if len(founds) == 1 else f" in {len(known)} of {len(founds)} cases"
    return f"{_factors(known)}{where}"


def _by(founds: Sequence[Verdict]) -> str:
    """``by 62 to 110 %``; ``× 1.4 to × 10.5`` where a percentage would be hard to read; with a 0, the differences."""
    ratios = sorted(found.ratio for found in founds if found.ratio is not None)
    zero = len(founds) - len(ratios)
    parts = []
    if ratios and ratios[-1] >= _FACTOR:
        parts.append(_factors(ratios))
    elif ratios:
        changes = sorted(abs(ratio - 1) * 100 for ratio in ratios)
        ends = dict.fromkeys(f"{end:.0f}" if end >= 9.95 else f"{end:.2g}" for end in (changes[0], changes[-1]))
        parts.append(f"by {' to '.join(ends)} %")
    if zero:
        parts.append("from 0" if len(founds) == zero else f"from 0 in {zero}")
    return ", ".join(parts)


def _factors(ratios: Sequence[float]) -> str:
    """Of the first and the last."""
    return " to ".join(dict.fromkeys(f"× {ratio:.3g}" for ratio in (ratios[0], ratios[-1])))


def _cases(founds: Sequence[Verdict]) -> str:
    return ", ".join(found.pairs.case for found in founds)


def _what_would_tell(founds: Sequence[Verdict]) -> str:
    done = max(len(found.pairs.baseline) for found in founds)
    needed = [found.pairs_needed for found in founds if found.pairs_needed]
    if needed:
        return pairs_told(done, needed)
    if done < MIN_PAIRS:
        return f"fewer than {MIN_PAIRS} pairs decide nothing"
    return "; ".join(dict.fromkeys(found.reason.partition(";")[0] for found in founds))


def _progress(findings: Findings) -> Iterator[str]:
    comparison = findings.comparison
    done, most = len(comparison.baseline.units), comparison.planned
    if not comparison.final:
        yield (
            f"**Not final:** {done} of {most} planned pairs, and a look too early raises alarms."
            if not comparison.looks
            else f"**Not final:** {done} of at most {most} pairs; it is judged after {listed(comparison.looks, 'and')}."
        )
    elif most is not None and done < most:
        yield f"It ended at a planned look, after {done} of at most {most} pairs; every p allows for all looks."


def _fragile(findings: Findings) -> Iterator[str]:
    weak = [found for found in findings.primary if found.fragile]
    if not weak:
        return
    label = {side.arm: called(side, findings) for side in findings.comparison.candidates}
    several = len(label) > 1
    told = [
        f"{name(found)} in {found.pairs.case}{f' of {label[found.pairs.arm]}' if several else ''}, {found.fragile}"
        for found in weak[:_MOST_NAMED]
    ]
    more = f"; and {len(weak) - _MOST_NAMED} more, marked † below" if len(weak) > _MOST_NAMED else ""
    yield f"**Fragile:** {'; '.join(told)}{more}."


def _proof(findings: Findings) -> Iterator[str]:
    if runs := ", ".join(findings.comparison.unproven):
        yield f"That both were sent the same is NOT PROVABLE: {runs} kept no requests."
