"""The fixtures by which a test measures: under names of ours, which nobody overrides by accident."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from context_research import signals
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure.case import measure
from context_research.measure.result import CaseResult
from context_research.models.model import Model
from context_research.plugin.benchmark_rows import disabled
from context_research.plugin.engines import SessionEngines
from context_research.plugin.options import worded
from context_research.plugin.progress import ProgressLine
from context_research.plugin.session import SESSION, Session
from context_research.records.case import CaseRecord, FinishedCase
from context_research.serving import shape
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.settings.workload import Workload
from context_research.workload import traces
from context_research.workload.case import Case

CASE = pytest.StashKey[str]()
"""What a case leaves on its item, and the plugin moves to its report: a FinishedCase as JSON, for other processes."""


@pytest.fixture(scope="session")
def context_research_settings(pytestconfig: pytest.Config) -> Settings:
    """The run's settings, resolved."""
    return pytestconfig.stash[SESSION].resolved.settings


@pytest.fixture(scope="session")
def context_research_engines(pytestconfig: pytest.Config) -> Iterator[SessionEngines]:
    """The session's engines; closed with it."""
    engines = SessionEngines(pytestconfig, pytestconfig.stash[SESSION])
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def context_research_serving(
    request: pytest.FixtureRequest,
    context_research_settings: Settings,
    context_research_engines: SessionEngines,
) -> Topology:
    """The serving mode at work: its engines, started when a test first asks for them, closed with the session."""
    with _ends_session(request):
        return context_research_engines.of(context_research_settings)


@pytest.fixture
def context_research_serving_run(
    request: pytest.FixtureRequest, benchmark: Any, context_research_engines: SessionEngines
) -> Callable[[Case], CaseResult]:
    """Measures one case: ``serving_run(case)``, once a test, on engines that have its settings.

    Fails the test if a validity check fails, with its evidence. With --benchmark-disable: one repeat, no rows.
    """
    # pytest-benchmark decides whether the test runs (-skip, -only); it is not the clock.
    benchmark.disabled = True
    config = request.config
    session = config.stash[SESSION]

    def run(case: Case) -> CaseResult:
        if CASE in request.node.stash:
            pytest.fail(
                "serving_run measures one case a test: its figures would replace the first one's", pytrace=False
            )
        line, repeats = ProgressLine(config), 1 if disabled(config) else None
        arrive = session.arrivals[case.settings.workload.arrivals]
        try:
            with _ends_session(request):
                topology, model = context_research_engines.of(case.settings), session.model_of(case.settings)
                result = measure(case, model, topology, session.standing, line.show, repeats, arrive)
            signals.hold()
        finally:
            line.clear()
        request.node.stash[CASE] = _finished(request.node, session, result, topology).model_dump_json(by_alias=True)
        if result.failure:
            pytest.fail(f"{case.name}: {result.failure}", pytrace=False)
        return result

    def once(case: Case) -> CaseResult:
        result: CaseResult = benchmark.pedantic(run, args=(case,), rounds=1, iterations=1)
        return result

    return once


@contextlib.contextmanager
def _ends_session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turns engines that can't be had into one line, and the end of the session: no other case could run either."""
    problem = None
    try:
        yield
    except (EngineFailure, UsageProblem) as failure:
        problem = worded(str(failure), request.config)
    if problem:
        request.config.stash[SESSION].cannot_start = request.session.shouldstop = problem
        pytest.fail(problem, pytrace=False)


def _finished(item: pytest.Item, session: Session, result: CaseResult, topology: Topology) -> FinishedCase:
    chosen, model = result.case.settings, session.model_of(result.case.settings)
    kinds = session.metrics
    case, engines = result.record(kinds), topology.describe()
    return FinishedCase(
        nodeid=item.nodeid.partition("@")[0],
        experiment=chosen.experiment,
        backend=chosen.backend,
        device=session.backend.labels.row_device(chosen.device, engines),
        mode=chosen.serving.mode,
        topology=shape.of_engines(chosen.device, engines),
        model_label=model.label,
        work=_work(case, chosen, model),
        run_id=session.files.run_id,
        case=case,
        samples=result.samples(kind for kind in kinds if kind.unit == "s" and kind.lower_is_better),
        windows=result.windows(),
        requests=result.requests(),
        engines=engines,
    )


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
