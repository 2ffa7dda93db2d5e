"""The report of a comparison: the verdict in words first, then figures, validity, method, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from context_research.backends.registry import named
from context_research.compare.comparison import Comparison, Side
from context_research.compare.differences import manifest_differences
from context_research.compare.observations import Arm
from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.compare.verdict import Findings
from context_research.measure import metrics
from context_research.measure.metrics import METRICS
from context_research.records import store
from context_research.records.run import RunRecord
from context_research.report import checks, verdicts, words
from context_research.report.figures import forest
from context_research.report.figures.drawing import draw
from context_research.report.run import about, load_of
from context_research.report.tables import image, images, quantity, table


def write(findings: Findings) -> Path:
    """Write the report, its figures in a folder beside it; its path. Raises UsageProblem for a missing artifact."""
    comparison = findings.comparison
    arms = [side.observed() for side in comparison.sides]
    drawn = draw(arms, comparison.report.with_suffix(""), _about(findings), findings)
    forests = [figure for figure in drawn if figure.stem.startswith(forest.STEM)]
    others = [figure for figure in drawn if figure not in forests]
    sections = [
        _head(findings),
        _verdicts(findings, [image(figure, comparison.report.stem) for figure in forests]),
        images(others, comparison.report.stem),
        _pooled(arms),
        _descriptive(findings),
        _validity(findings),
        _method(findings),
        _differences(findings),
        _runs(findings),
    ]
    store.replace(comparison.report, "\n\n".join(section for section in sections if section) + "\n")
    return comparison.report


def _head(findings: Findings) -> str:
    comparison = findings.comparison
    first = comparison.baseline.runs[0].metadata
    title = f"# {first.experiment}: {_candidates(comparison)} against {comparison.baseline.label}"
    worst = {case.name: case for case in sorted(findings.comparison.cases, key=lambda case: case.extrapolated_share)}
    warning = named(first.backend).labels.warning(first.engines, worst.values())
    backend = f"\n\n{warning}" if warning else ""
    allowed = "".join(
        f"\n\n> **{key} differs, and was allowed to:** {one} / {other}."
        for key, (one, other) in comparison.allowed.items()
    )
    cases = findings.comparison.cases
    proof = "".join(f"\n\n{told}" for told in (checks.warning(cases), _overload(findings)) if told)
    load = "".join(f" {what[0].upper()}{what[1:]}: {told}." for what, told in load_of(first))
    return f"{title}\n\n{words.paragraphs(findings)}{backend}{proof}{allowed}\n\n{_about(findings)}.{load}"


def _overload(findings: Findings) -> str:
    """Of each side by itself: where one is overloaded and the other isn't, that is the finding."""
    comparison = findings.comparison
    told = []
    for side in comparison.sides:
        for case, runs in side.overloaded.items():
            often = f" ({len(runs)} of {len(side.runs)} sessions)" if len(side.runs) > 1 else ""
            told.append(f"{side.label} in {case}{often}")
    return (
        f"> **OVERLOADED: {'; '.join(told)}.** Requests came faster than they were served: there is no steady state, "
        "and no latency is compared there. Attainment and throughput are."
        if told
        else ""
    )


def _candidates(comparison: Comparison) -> str:
    return ", ".join(side.label for side in comparison.candidates)


def _about(findings: Findings) -> str:
    comparison = findings.comparison
    count = len(comparison.baseline.units)
    paired = f"{count} paired {comparison.unit}{'' if count == 1 else 's'}"
    cases = [case for side in comparison.sides for case in side.runs[0].cases.values()]
    return f"{about(comparison.baseline.runs[0].metadata, cases)}, {paired}"


def _verdicts(findings: Findings, forests: Sequence[str]) -> str:
    ratio = "The ratio is candidate ÷ baseline, the geometric mean over the pairs"
    if findings.measured:
        ratio += (
            f", with its 95 % interval. p is that of the verdict, beside the whole family of {len(findings.primary)} "
            "and all planned looks. That of sign flips assumes no distribution and is beside nothing: a decision with "
            "a large one is fragile (†)"
        )
    ratio += "."
    if any(found.difference for found in findings.primary):
        ratio += " A value of 0 has no ratio: there the differences are judged, and means are arithmetic."
    noise = (
        f" Both runs are one start of their engines each, and two starts of the same differ: intervals are widened by "
        f"{findings.start_noise:.0%} (--start-noise)."
        if findings.start_noise and findings.measured
        else ""
    )
    floor = f" What differs in the A/A {findings.noise_floor} too is undecided here." if findings.noise_floor else ""
    parts = ("## Verdict", *forests, verdicts.whole_table(findings), f"{ratio}{noise}{floor}")
    return "\n\n".join(parts)


def _pooled(arms: Sequence[Arm]) -> str:
    overloaded = {case for arm in arms for case in arm.overloaded}
    steady = [arm.without(overloaded) for arm in arms]
    every = [repeat for arm in steady for case in arm.cases for repeat in arm.repeats(case)]
    rows = [
        (metric.name, case, arm.label, m.count, *(quantity(m.value(f"p{p}"), "s") for p in metrics.PERCENTILES))
        for metric in metrics.with_classes((each for each in METRICS if each.is_latency), every)
        for case in dict.fromkeys(case for arm in steady for case in arm.cases)
        for arm in steady
        if (m := metrics.pooled(metric, arm.repeats(case))).count
    ]
    header = ("metric", "case", "arm", "samples", *(f"p{p}" for p in metrics.PERCENTILES))
    note = (
        "Every request of every unit together: what a user of that arm saw. Requests of one session are not "
        "independent, so no verdict rests on these. A dash is a percentile with too few samples behind it."
    )
    return f"## All requests\n\n{note}\n\n{table(rows, header)}" if rows else ""


def _descriptive(findings: Findings) -> str:
    if not findings.descriptive:
        return ""
    note = "Not judged: they were not in the family."
    if findings.measured:
        note += " Intervals are each by itself; some will miss 1 by chance."
    return f"## Other metrics\n\n{note}\n\n{verdicts.descriptive_table(findings)}"


def _validity(findings: Findings) -> str:
    sides = findings.comparison.sides
    rows = [
        (name, *(_counted(_checks(side, name)) for side in sides)) for name in checks.names(findings.comparison.cases)
    ]
    header = ("check", *(side.label for side in sides))
    note = "Cases × runs. A run with a failed check is in no comparison; what each proves: docs/validity.md."
    return f"## Validity\n\n{note}\n\n{table(rows, header)}"


def _checks(side: Side, name: str) -> list[str]:
    cases = (case for run in side.runs for case in run.cases.values())
    return [check.status for case in cases for check in case.validity if check.check == name]


def _counted(statuses: Sequence[str]) -> str:
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)) or "–"


def _method(findings: Findings) -> str:
    if not findings.measured:
        return (
            "## Method\n\nThe ratios are a model's. That they come out alike every time says nothing of chance: no "
            "interval, no p, no verdict. How the simulation works, and how far to trust it: docs/simulation.md."
        )
    unit = (
        "a session: engines started for it, one value of each metric and case"
        if findings.comparison.unit == "session"
        else "a repeat of a run"
    )
    family = (
        "which was named beforehand"
        if findings.beforehand
        else "**named afterwards: a hint for the next measurement, no proof**"
    )
    return (
        f"## Method\n\nThe unit is {unit}. Pairs share a seed, hence every request. Student's t on the pairs' log "
        f"ratios; Holm's correction: {ALPHA:.0%} is the chance of any false alarm in the family, {family}. "
        f"`equivalent`: two one-sided tests find it within {findings.practical:.3g} either way. Else, and with fewer "
        f"than {MIN_PAIRS} pairs, `undecided`. Sources, false alarm rate and power: docs/statistics.md."
    )


def _differences(findings: Findings) -> str:
    sides = findings.comparison.sides
    rows = [
        tuple("–" if value is None else value for value in row)
        for row in manifest_differences(*(side.runs[0] for side in sides))
    ]
    header = ("", *(side.label for side in sides))
    return f"## What differs\n\n{table(rows, header) if rows else 'Nothing in settings, versions or machine.'}"


def _runs(findings: Findings) -> str:
    sides = findings.comparison.sides
    rows: Iterable[Sequence[Any]] = sorted(
        (
            (run.metadata.started, side.label, run.metadata.seed, _devices(run.metadata), run.files.run_id)
            for side in sides
            for run in side.runs
        ),
        key=lambda row: row[0],
    )
    return f"## Runs, in their order\n\n{table(rows, ('started (UTC)', 'arm', 'seed', 'devices', 'run'))}"


def _devices(run: RunRecord) -> str:
    """GPU ids as the machine has them, or cores: sessions may have run side by side."""
    return named(run.backend).labels.indices(run)
