"""The Markdown report of one run: what ran, on what, the figures of every case, and the proof that they count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from context_research.backends.registry import named
from context_research.compare import observations
from context_research.compare.family import class_of
from context_research.compare.observations import Arm
from context_research.errors import UsageProblem
from context_research.measure.metrics import PERCENTILES, samples_needed
from context_research.records import running, store
from context_research.records import summary as summaries
from context_research.records.case import CaseRecord, MetricRecord
from context_research.records.files import RunFiles
from context_research.records.run import RunRecord
from context_research.records.summary import SummaryRecord
from context_research.report import checks, loads, sections
from context_research.report.figures.drawing import draw
from context_research.report.tables import SCALES, images, scaled, table
from context_research.serving import shape

_ROLES = ("prefill", "decode")
_COLUMNS = ("mean", "p50", "p90", "p95", "p99")


def write(files: RunFiles) -> Path:
    """Write the report beside the run's folder; its path.

    Raises UsageProblem for a missing or corrupt artifact, StorageFailure.
    """
    run = running.read(files)
    summary = summaries.read(files, run)
    # Nothing is drawn of a run that ended before its first case.
    lines = summary.requests_file.lines if summary.requests_file else None
    cases = observations.read(files, lines) if files.requests.is_file() else {}
    axes = {case.name: case.axes for case in summary.cases}
    overloaded = frozenset(case.name for case in summary.cases if case.overloaded)
    arm = Arm(
        f"{run.serving.mode} ({shape.of_run(run)})",
        observations.by_repeat(cases),
        axes,
        overloaded,
        measured=named(run.backend).measured,
        capacities=(summary.capacities,),
    )
    title = about(run, summary.cases)
    drawn = draw([arm], files.report.with_suffix(""), title) if arm.units else []
    store.replace(files.report, render(run, summary, images(drawn, files.report.stem), sections.kept(files)))
    return files.report


def render(run: RunRecord, summary: SummaryRecord, drawn: str = "", added: str = "") -> str:
    """The report's text; `drawn` is its section of figures, `added` are those of plugins."""
    parts = [
        _head(run, summary),
        _cases(run, summary),
        loads.as_it_was(summary.cases),
        drawn,
        _figures(summary),
        _validity(summary),
        _manifest(run),
        added,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(run: RunRecord, summary: SummaryRecord) -> str:
    model, invalid = run.model, checks.warning(summary.cases)
    labels = named(run.backend).labels
    backend, device = labels.warning(run.engines, summary.cases), labels.device(run)
    title = f"# {run.experiment}: {run.serving.mode} ({shape.of_run(run)}), {model.name}, on {device}"
    rows = [
        ("run", run.run_id),
        ("status", run.status + (f": {run.reason}" if run.reason else "")),
        ("backend, device", f"{run.backend}, {run.device}"),
        ("model", model.label or f"{model.name} {model.weights}"),
        ("handoff", run.setting("serving.handoff.connector") or "none"),
        ("seed", run.seed),
        *load_of(run),
        ("started, finished (UTC)", f"{run.started}, {run.finished or 'not finished'}"),
        ("settings from", run.experiment_reason),
        ("command", f"`{' '.join(run.command)}`"),
    ]
    warning = {
        "dummy": "> The weights are vLLM's dummy ones: times are the model's, but a wrong KV cache would not show.",
        "seeded": "> The weights are seeded random ones: times and KV checks are the model's, its words are not.",
    }.get(model.weights, "")
    overload = loads.warning(summary.cases)
    parts = (title, backend, invalid, overload, table(rows, ("", "")), _resumed(run), warning)
    return "\n\n".join(part for part in parts if part)


def _resumed(run: RunRecord) -> str:
    """That the engines of some cases are not those of others."""
    times = ", then ".join(f"after {each.after or 'no case'} ({each.at})" for each in run.resumed)
    return f"**Resumed: the engines were started anew {times}.**" if times else ""


def load_of(run: RunRecord) -> list[tuple[str, str]]:
    """The load in words, and what is asked of it; nothing where another version wrote the settings."""
    try:
        settings = run.resolved_settings()
    except UsageProblem:
        return []
    slo = loads.objectives(settings)
    return [("load", loads.described(settings)), *([("SLOs", slo)] if slo else [])]


def about(run: RunRecord, cases: Iterable[CaseRecord] = ()) -> str:
    """What every figure's title says; of `cases` simulated ones may be extrapolated."""
    labels = named(run.backend).labels
    dtype, device = run.setting("model.dtype"), f"{labels.engine}{labels.device(run)}"
    return f"{run.experiment}, {run.model.shown} {dtype}, {device}" + (
        ", EXTRAPOLATED in part" if any(case.extrapolated_share for case in cases) else ""
    )


def _cases(run: RunRecord, summary: SummaryRecord) -> str:
    missing = (run.planned or 0) - len(summary.cases)
    note = f"\n\n**{missing} of {run.planned} cases are missing.**" if missing > 0 else ""
    if not summary.cases:
        return f"## Cases\n\nNo case finished.{note}"
    axes = list(dict.fromkeys(axis for case in summary.cases for axis in case.axes))
    rows = [
        (
            case.name,
            *(case.axes.get(axis, "–") for axis in axes),
            case.status,
            f"{case.requests.finished} of {case.requests.asked}",
            case.tokens.prompt_external,
            case.handoff.transfers,
            f"{case.handoff.bytes / 1e6:.1f}",
        )
        for case in summary.cases
    ]
    named = (axis.replace("_", " ") for axis in axes)
    header = ("case", *named, "status", "requests", "external tokens", "transfers", "MB moved")
    failures = [f"- **{case.name}** failed: {case.failure}" for case in summary.cases if case.failure]
    return "\n\n".join(part for part in (f"## Cases\n\n{table(rows, header)}{note}", "\n".join(failures)) if part)


def _figures(summary: SummaryRecord) -> str:
    names = list(dict.fromkeys(class_of(name)[1] for case in summary.cases for name in case.metrics))
    parts = [part for name in names if (part := _metric(summary.cases, name))]
    if not parts:
        return ""
    needed = ", ".join(f"p{percentile} needs {samples_needed(percentile)}" for percentile in PERCENTILES)
    note = (
        f"{named(summary.backend).labels.figures} on the {summary.backend} backend on "
        f"{summary.device}, {summary.model.shown}. A dash is a percentile with "
        f"too few samples behind it ({needed}). Definitions: docs/metrics.md."
    )
    return "\n\n".join(part for part in ("## Metrics", note, _waterfall(summary), _roles(summary), *parts) if part)


def _metric(cases: Sequence[CaseRecord], name: str) -> str:
    """One metric's table: a row for each case, and below it one for each of its classes."""
    entries = [
        (case.name, of, record)
        for case in cases
        for of in ("", *loads.classes(case))
        if (record := case.metrics.get(f"{of}.{name}" if of else name)) and (record.count or record.missing)
    ]
    if not entries:
        return ""
    with_classes = any(of for _, of, _ in entries)
    scale, unit = SCALES.get(entries[0][2].unit, (1.0, entries[0][2].unit))
    rows = [
        (
            case,
            *((of or loads.ALL,) if with_classes else ()),
            "overloaded" if case in _overloaded(cases) and record.missing else record.count,
            *(scaled(record.value(column), scale) for column in _COLUMNS),
        )
        for case, of, record in entries
    ]
    why = dict.fromkeys((case, record.missing) for case, _, record in entries if record.missing)
    missing = "".join(f"\n\n**{case}** has none: {told}" for case, told in why)
    header = ("case", *(("class",) if with_classes else ()), "samples", *_COLUMNS)
    return f"### {name} ({unit})\n\n{table(rows, header)}{missing}"


def _overloaded(cases: Sequence[CaseRecord]) -> list[str]:
    return [case.name for case in cases if case.overloaded]


def _waterfall(summary: SummaryRecord) -> str:
    names = list(dict.fromkeys(name for case in summary.cases for name in case.waterfall))
    rows = [
        (case.name, column, *(_part(case, name, column) for name in names))
        for case in summary.cases
        for column in ("p50", "p90")
        if case.waterfall and not case.overloaded
    ]
    header = ("case", "", *(name.replace("_", " ") for name in names))
    return f"### where ttft goes (ms)\n\n{table(rows, header)}" if rows else ""


def _part(case: CaseRecord, name: str, column: str) -> str:
    return scaled(case.waterfall[name].value(column) if name in case.waterfall else None, 1e3)


def _roles(summary: SummaryRecord) -> str:
    rows = [
        (
            case.name,
            *(f"{case.roles[role].tokens_per_s:.0f}" for role in _ROLES),
            *(f"{case.roles[role].busy_share:.0%}" for role in _ROLES),
            f"{_rate(case.whole.metrics if case.whole else {})} / {_rate(case.metrics)}",
        )
        for case in summary.cases
        if case.roles
    ]
    note = (
        "Rates are those of a steady state with as many in flight (docs/metrics.md), busy shares those of the measured "
        "windows. The last column shows what ramp and drain would have made of the output rate: whole pass / steady."
    )
    header = ("case", "prefill tokens/s", "decode tokens/s", "prefill busy", "decode busy", "output tokens/s")
    return f"### what each role did\n\n{note}\n\n{table(rows, header)}" if rows else ""


def _rate(metrics: dict[str, MetricRecord]) -> str:
    seconds = metrics["output_token_time"].mean if "output_token_time" in metrics else None
    return f"{1 / seconds:.1f}" if seconds else "–"


def _validity(summary: SummaryRecord) -> str:
    rows = [
        (case.name, check.check, checks.shown(check), check.evidence)
        for case in summary.cases
        for check in case.validity
    ]
    return f"## Validity\n\n{table(rows, ('case', 'check', 'status', 'evidence'))}" if rows else ""


def _manifest(run: RunRecord) -> str:
    manifest = run.environment_manifest
    machine, versions = manifest.machine, manifest.versions
    rows = [
        ("python, platform", f"{manifest.python}, {manifest.platform}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)),
        ("cpu", f"{machine.cpu.model}, cores {list(machine.cpu.cores)}"),
        ("gpus", ", ".join(gpu.name for gpu in machine.gpus) or "none"),
        ("driver", machine.driver or "none"),
        ("hf_home", manifest.hf_home),
        *((name, value) for name, value in manifest.lightning_env.items() if value),
    ]
    engines = [
        (
            engine.name,
            engine.role,
            ", ".join(map(str, engine.devices)),
            _gib(engine.kv_pool_bytes),
            engine.resolved("cache", "block_size") or "–",
            "–" if engine.start_s is None else engine.start_s,
        )
        for engine in run.engines
    ]
    header = ("engine", "role", "devices", "KV pool (GiB)", "block size", "start (s)")
    return "\n\n".join(
        ["## Engines", table(engines, header) if engines else "None started.", "## Machine", table(rows, ("", ""))]
    )


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:.2f}"
