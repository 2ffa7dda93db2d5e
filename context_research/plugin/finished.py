"""A finished case as it leaves its test: just measured, or read back of a run that is resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from context_research.measure import metrics
from context_research.measure.metrics import Metric, Repeat
from context_research.measure.result import CaseResult
from context_research.models.model import Model
from context_research.plugin.session import Session
from context_research.records.case import CaseRecord, FinishedCase
from context_research.records.run import EngineRecord
from context_research.serving import shape
from context_research.settings.schema import Settings
from context_research.settings.workload import Workload
from context_research.workload import traces
from context_research.workload.case import Case


def measured(
    item: pytest.Item, session: Session, result: CaseResult, engines: tuple[EngineRecord, ...]
) -> FinishedCase:
    """A case that was measured on these engines now."""
    return FinishedCase(
        **_about(item, result.case, session, result.record(session.metrics), engines),
        samples=result.samples(_in_rows(session)),
        windows=result.windows(),
        requests=result.requests(),
    )


def read_back(
    item: pytest.Item,
    case: Case,
    session: Session,
    record: CaseRecord,
    repeats: Sequence[Repeat],
    engines: Sequence[EngineRecord],
) -> FinishedCase:
    """A case that `item` measured earlier, less its requests, which are on disk; `engines` are all of its run's."""
    used = {leg.engine for repeat in repeats for timeline in repeat.served for leg in timeline.legs}
    its = tuple(engine for engine in engines if engine.name in used)
    return FinishedCase(
        **_about(item, case, session, record, its),
        samples=metrics.samples(_in_rows(session), repeats, latencies=not record.overloaded),
        windows=tuple(repeat.window(case.name, number, 0.0) for number, repeat in enumerate(repeats)),
        requests=(),
    )


def case_of(item: pytest.Item) -> Case | None:
    """The case that a test is given; an experiment's test need not be given one."""
    given = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return given if isinstance(given, Case) else None


def measures(item: pytest.Item) -> bool:
    """Whether a test measures something."""
    return "context_research_serving_run" in getattr(item, "fixturenames", ())


def _in_rows(session: Session) -> list[Metric]:
    return [metric for metric in session.metrics if metric.unit == "s" and metric.lower_is_better]


def _about(
    item: pytest.Item, case: Case, session: Session, record: CaseRecord, engines: tuple[EngineRecord, ...]
) -> dict[str, Any]:
    """All but what was measured of each request."""
    chosen, model = case.settings, session.model_of(case.settings)
    return {
        "nodeid": item.nodeid.partition("@")[0],
        "experiment": chosen.experiment,
        "backend": chosen.backend,
        "device": session.backend.labels.row_device(chosen.device, engines),
        "mode": chosen.serving.mode,
        "topology": shape.of_engines(chosen.device, engines),
        "model_label": model.label,
        "work": _work(record, chosen, model),
        "run_id": session.files.run_id,
        "case": record,
        "engines": engines,
    }


def _load(workload: Workload) -> str:
    """Outputs' length; of what isn't that simple a name, and a few letters that other loads don't have."""
    plain = workload.arrivals == "closed" and not workload.classes and not workload.length_spread
    if plain and isinstance(workload.output_tokens, int):
        return f"{workload.output_tokens} out"
    requests = {"repeats", "requests", "request_timeout_s", "warmup_requests", "allow_preemptions", "prompt_lengths"}
    load = workload.model_dump_json(exclude=requests | {"concurrency", "temperature", "cache", "rate"})
    files = [each.rows for each in workload.classes.values()] + [workload.trace.file if workload.trace else None]
    for file in filter(None, files):  # by what is in it, wherever it lies
        load = load.replace(json.dumps(file), traces.read(file).sha256)
    lengths = f"{workload.output_tokens} out" if workload.trace is None else Path(workload.trace.file).name
    names = "+".join(workload.classes) or lengths
    rate = "" if workload.rate is None else f" {workload.rate:g}/s"
    return f"{workload.arrivals}{rate} {names} {sha256(load.encode()).hexdigest()[:4]}"


def _work(case: CaseRecord, chosen: Settings, model: Model) -> str:
    """What was computed, and what a reader of the row alone must know."""
    work = f"{model.label} {model.dtype}, {_load(chosen.workload)}"
    if case.allowed:
        work += f", INVALID: {', '.join(check.check for check in case.allowed)}"
    if case.not_provable:
        work += f", NOT PROVABLE: {', '.join(check.check for check in case.not_provable)}"
    if case.extrapolated_share:
        work += ", EXTRAPOLATED"
    if chosen.workload.temperature:
        work += f", temperature {chosen.workload.temperature:g}"
    return work + ("" if chosen.workload.cache == "cold" else f", cache {chosen.workload.cache}")
