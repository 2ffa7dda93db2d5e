"""The Markdown report of one run: what ran, on what, the figures of every case, and the proof that they count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from context_research.backends.base import extrapolated
from context_research.backends.registry import named
from context_research.compare import observations
from context_research.compare.observations import Arm
from context_research.measure.metrics import PERCENTILES, samples_needed
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.report import checks, figures, sections
from context_research.report.tables import SCALES, images, scaled, table

_ROLES = ("prefill", "decode")
_COLUMNS = ("mean", "p50", "p90", "p95", "p99")


def write(files: RunFiles, experiment: str) -> Path:
    """Write the report beside the run's folder; its path. Raises UsageProblem for a missing or corrupt artifact."""
    metadata = store.read(files.metadata, "run_metadata")
    summary = store.read(files.summary(experiment), "summary")
    # Nothing is drawn of a run that ended before its first case.
    cases = observations.read(files) if files.requests.is_file() else {}
    arm = Arm(metadata["serving"]["mode"], observations.by_repeat(cases))
    title = about(metadata, summary["cases"])
    drawn = figures.draw([arm], files.report.with_suffix(""), title) if arm.units else []
    store.replace(files.report, render(metadata, summary, images(drawn, files.report.stem), sections.kept(files)))
    return files.report


def render(metadata: Mapping[str, Any], summary: Mapping[str, Any], drawn: str = "", added: str = "") -> str:
    """The report's text; `drawn` is its section of figures, `added` are those of plugins."""
    parts = [
        _head(metadata, summary),
        _cases(metadata, summary),
        drawn,
        _figures(summary),
        _validity(summary),
        _manifest(metadata),
        added,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    model, invalid = metadata["model"], checks.warning(summary["cases"])
    labels = named(metadata["backend"]).labels
    backend, device = labels.warning(metadata["engines"], summary["cases"]), labels.device(metadata)
    title = f"# {metadata['experiment']}: {metadata['serving']['mode']}, {model['name']}, on {device}"
    rows = [
        ("run", metadata["run_id"]),
        ("status", metadata["status"] + (f": {metadata['reason']}" if metadata["reason"] else "")),
        ("backend, device", f"{metadata['backend']}, {metadata['device']}"),
        ("model", model.get("label") or f"{model['name']} {model['weights']}"),
        ("handoff", ((metadata["settings"].get("serving") or {}).get("handoff") or {}).get("connector") or "none"),
        ("seed", metadata["seed"]),
        ("started, finished (UTC)", f"{metadata['started']}, {metadata.get('finished') or 'not finished'}"),
        ("settings from", metadata.get("experiment_reason", "")),
        ("command", f"`{' '.join(metadata['command'])}`"),
    ]
    warning = {
        "dummy": "> The weights are vLLM's dummy ones: times are the model's, but a wrong KV cache would not show.",
        "seeded": "> The weights are seeded random ones: times and KV checks are the model's, its words are not.",
    }.get(model["weights"], "")
    return "\n\n".join(part for part in (title, backend, invalid, table(rows, ("", "")), warning) if part)


def about(metadata: Mapping[str, Any], cases: Iterable[Mapping[str, Any]] = ()) -> str:
    """What every figure's title says; `cases` are those of the summary, of which simulated ones may be extrapolated."""
    model, labels = metadata["model"], named(metadata["backend"]).labels
    label, device = model.get("label") or model["name"], f"{labels.engine}{labels.device(metadata)}"
    return f"{metadata['experiment']}, {label} {metadata['settings']['model']['dtype']}, {device}" + (
        ", EXTRAPOLATED in part" if any(map(extrapolated, cases)) else ""
    )


def _cases(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    planned = metadata.get("planned")
    missing = (planned or 0) - len(summary["cases"])
    note = f"\n\n**{missing} of {planned} cases are missing.**" if missing > 0 else ""
    if not summary["cases"]:
        return f"## Cases\n\nNo case finished.{note}"
    axes = list(dict.fromkeys(axis for case in summary["cases"] for axis in case["params"]))
    rows = [
        (
            case["name"],
            *(case["params"].get(axis, "–") for axis in axes),
            case["status"],
            f"{case['requests']['finished']} of {case['requests']['asked']}",
            case["tokens"]["prompt_external"],
            case["handoff"]["transfers"],
            f"{case['handoff']['bytes'] / 1e6:.1f}",
        )
        for case in summary["cases"]
    ]
    named = (axis.replace("_", " ") for axis in axes)
    header = ("case", *named, "status", "requests", "external tokens", "transfers", "MB moved")
    failures = [f"- **{case['name']}** failed: {case['failure']}" for case in summary["cases"] if case.get("failure")]
    return "\n\n".join(part for part in (f"## Cases\n\n{table(rows, header)}{note}", "\n".join(failures)) if part)


def _figures(summary: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for case in summary["cases"] for name in case["metrics"]))
    parts = []
    for name in names:
        entries = [(case["name"], case["metrics"][name]) for case in summary["cases"] if name in case["metrics"]]
        entries = [(case, metric) for case, metric in entries if metric["count"]]
        if entries:
            scale, unit = SCALES.get(entries[0][1]["unit"], (1.0, entries[0][1]["unit"]))
            rows = [(c, m["count"], *(scaled(m[column], scale) for column in _COLUMNS)) for c, m in entries]
            parts.append(f"### {name} ({unit})\n\n{table(rows, ('case', 'samples', *_COLUMNS))}")
    if not parts:
        return ""
    label = summary["model"].get("label") or summary["model"]["name"]
    needed = ", ".join(f"p{percentile} needs {samples_needed(percentile)}" for percentile in PERCENTILES)
    note = (
        f"{named(summary['backend']).labels.figures} on the {summary['backend']} backend on "
        f"{summary['device']}, {label}. A dash is a percentile with "
        f"too few samples behind it ({needed}). Definitions: docs/metrics.md."
    )
    return "\n\n".join(part for part in ("## Metrics", note, _waterfall(summary), _roles(summary), *parts) if part)


def _waterfall(summary: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for case in summary["cases"] for name in case["waterfall"]))
    rows = [
        (case["name"], column, *(scaled(case["waterfall"].get(name, {}).get(column), 1e3) for name in names))
        for case in summary["cases"]
        for column in ("p50", "p90")
        if case["waterfall"]
    ]
    header = ("case", "", *(name.replace("_", " ") for name in names))
    return f"### where ttft goes (ms)\n\n{table(rows, header)}" if names else ""


def _roles(summary: Mapping[str, Any]) -> str:
    rows = [
        (
            case["name"],
            *(f"{case['roles'][role]['tokens_per_s']:.0f}" for role in _ROLES),
            *(f"{case['roles'][role]['busy_share']:.0%}" for role in _ROLES),
            f"{_rate(case['whole']['metrics'])} / {_rate(case['metrics'])}",
        )
        for case in summary["cases"]
        if case.get("roles")
    ]
    note = (
        "Rates are those of a steady state with as many in flight (docs/metrics.md), busy shares those of the measured "
        "windows. The last column shows what ramp and drain would have made of the output rate: whole pass / steady."
    )
    header = ("case", "prefill tokens/s", "decode tokens/s", "prefill busy", "decode busy", "output tokens/s")
    return f"### what each role did\n\n{note}\n\n{table(rows, header)}" if rows else ""


def _rate(figures: Mapping[str, Any]) -> str:
    seconds = figures["output_token_time"]["mean"]
    return f"{1 / seconds:.1f}" if seconds else "–"


def _validity(summary: Mapping[str, Any]) -> str:
    rows = [
        (case["name"], check["check"], checks.shown(check), check["evidence"])
        for case in summary["cases"]
        for check in case["validity"]
    ]
    return f"## Validity\n\n{table(rows, ('case', 'check', 'status', 'evidence'))}" if rows else ""


def _manifest(metadata: Mapping[str, Any]) -> str:
    manifest = metadata["environment_manifest"]
    machine, versions = manifest["machine"], manifest["versions"]
    rows = [
        ("python, platform", f"{manifest['python']}, {manifest['platform']}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)),
        ("cpu", f"{machine['cpu']['model']}, cores {machine['cpu']['cores']}"),
        ("gpus", ", ".join(gpu["name"] for gpu in machine["gpus"]) or "none"),
        ("driver", machine["driver"] or "none"),
        ("hf_home", manifest["hf_home"]),
        *((name, value) for name, value in manifest["lightning_env"].items() if value),
    ]
    engines = [
        (
            engine["name"],
            engine["role"],
            ", ".join(map(str, engine["devices"])),
            _gib(engine.get("kv_pool_bytes")),
            engine["vllm_config"].get("cache", {}).get("block_size", "–"),
            engine.get("start_s", "–"),
        )
        for engine in metadata["engines"]
    ]
    header = ("engine", "role", "devices", "KV pool (GiB)", "block size", "start (s)")
    return "\n\n".join(
        ["## Engines", table(engines, header) if engines else "None started.", "## Machine", table(rows, ("", ""))]
    )


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**30:.2f}"
