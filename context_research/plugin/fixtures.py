"""The fixtures: settings, seed, workload, serving, engine, serving_run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from context_research.engines.base import Engine
from context_research.errors import EngineFailure, UsageProblem
from context_research.hardware.devices import Placement
from context_research.measure import metrics, waterfall
from context_research.measure.case import CaseResult, measure
from context_research.measure.checks import evidence
from context_research.measure.metrics import Metric
from context_research.models import hub
from context_research.plugin.benchmark_rows import disabled
from context_research.plugin.progress import ProgressLine
from context_research.plugin.session import SESSION, Session
from context_research.report import labels
from context_research.request import Timeline
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings, Workload
from context_research.workload.case import Case

CASE = pytest.StashKey[dict[str, Any]]()
"""What a case leaves on its item, and the plugin moves to its report: plain data, as it may cross processes."""


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    """The run's settings, resolved."""
    return pytestconfig.stash[SESSION].resolved.settings


@pytest.fixture(scope="session")
def seed(settings: Settings) -> int:
    """The run's seed."""
    assert settings.seed is not None  # the plugin refuses a run without one
    return settings.seed


@pytest.fixture(scope="session")
def workload(settings: Settings) -> Workload:
    """The run's workload settings."""
    return settings.workload


@pytest.fixture(scope="session")
def serving(request: pytest.FixtureRequest, pytestconfig: pytest.Config, settings: Settings) -> Iterator[Topology]:
    """The serving mode at work: its engines, started when a test first asks for them, closed with the session."""
    session = pytestconfig.stash[SESSION]
    ProgressLine(pytestconfig).note(f"starting {settings.serving.mode} serving, log in {session.logs}")
    with _ends_session(request):
        # Engines on a GPU would be in the way of what is measured here.
        session.standing = evidence.standing(settings, session.model, session.cases, session.files)
        topology = _build(pytestconfig, session)
        # Fixtures are not torn down if another plugin raises at the end of an interrupted session; cleanups run.
        pytestconfig.add_cleanup(topology.close)
        topology.start()
    yield topology
    topology.close()


@pytest.fixture(scope="session")
def engine(serving: Topology) -> Engine:
    """The engine whose tokens the client sees; the first, where there are several."""
    return serving.decoders[0]


@pytest.fixture
def serving_run(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., CaseResult]:
    """Measures one case: ``serving_run(prompt_tokens=1024, concurrency=4)``, once a test.

    Fails the test if a validity check fails, with its evidence. With --benchmark-disable: one repeat, no rows.
    """
    # pytest-benchmark decides whether the test runs (-skip, -only); it is not the clock.
    benchmark.disabled = True
    config = request.config
    session = config.stash[SESSION]

    def run(prompt_tokens: int, concurrency: int) -> CaseResult:
        chosen, line = session.resolved.settings, ProgressLine(config)
        case = Case(chosen.experiment, prompt_tokens, concurrency)
        topology, repeats = _running(request, line), 1 if disabled(config) else None
        try:
            with _ends_session(request):
                result = measure(case, chosen, session.model, topology, session.standing, line.show, repeats)
        finally:
            line.clear()
        request.node.stash[CASE] = _payload(request.node, session, result, topology)
        if result.failure:
            pytest.fail(f"{case.name}: {result.failure}", pytrace=False)
        return result

    def once(prompt_tokens: int, concurrency: int) -> CaseResult:
        result: CaseResult = benchmark.pedantic(run, args=(prompt_tokens, concurrency), rounds=1, iterations=1)
        return result

    return once


def _build(config: pytest.Config, session: Session) -> Topology:
    chosen = session.resolved.settings
    model = session.model if chosen.simulated else hub.download(session.model)

    def make_engine(placement: Placement) -> Engine:
        made: Engine = config.hook.pytest_context_research_make_engine(
            settings=chosen, model=model, placement=placement, log=session.logs / f"{placement.spec.name}.log"
        )
        return made

    topology = build.build(chosen, make_engine)
    for engine in topology.engines:
        if missing := [
            name for name in ("log", "counters", "serve", "reset_prefix_cache") if not hasattr(engine, name)
        ]:
            raise UsageProblem(f"{type(engine).__name__} is no engine: it lacks {', '.join(missing)} (engines/base.py)")
    return topology


def _running(request: pytest.FixtureRequest, line: ProgressLine) -> Topology:
    """The session's topology, its engines started, or restarted where that is due."""
    topology: Topology = request.getfixturevalue("serving")
    with _ends_session(request):
        if why := topology.revive():
            line.note(f"restarted the engines: {why}")
    return topology


@contextlib.contextmanager
def _ends_session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turns engines that can't be had into one line, and the end of the session: no other case could run either."""
    problem = None
    try:
        yield
    except (EngineFailure, UsageProblem) as failure:
        problem = str(failure)
    if problem:
        request.config.stash[SESSION].cannot_start = request.session.shouldstop = problem
        pytest.fail(problem, pytrace=False)


def all_metrics(config: pytest.Config, settings: Settings) -> tuple[Metric, ...]:
    """The built-in metrics and those that plugins add."""
    added = config.hook.pytest_context_research_metrics(settings=settings)
    return (*metrics.METRICS, *(metric for some in added for metric in some or ()))


def _payload(item: pytest.Item, session: Session, result: CaseResult, topology: Topology) -> dict[str, Any]:
    chosen = session.resolved.settings
    kinds = all_metrics(session.config, chosen)
    samples = result.samples(kinds)
    connector = chosen.serving.handoff.connector if chosen.serving.handoff else None
    work = f"{session.model.label} {session.model.dtype}, {chosen.workload.output_tokens} out"
    if allowed := [check.check for check in result.checks if check.status == "fail" and check.allowed]:
        work += f", INVALID: {', '.join(allowed)}"
    summary, engines = result.summary(kinds, connector), [engine.describe() for engine in topology.engines]
    if labels.extrapolated(summary):
        work += ", EXTRAPOLATED"
    return {
        "nodeid": item.nodeid.partition("@")[0],
        "experiment": chosen.experiment,
        "backend": chosen.backend,
        "device": labels.device(engines) if chosen.simulated else chosen.device,
        "mode": chosen.serving.mode,
        "model_label": session.model.label,
        "work": work + ("" if chosen.workload.cache == "cold" else f", cache {chosen.workload.cache}"),
        "invalid": [check.check for check in result.failed],
        "run_id": session.files.run_id,
        "summary": summary,
        "samples": {kind.name: samples[kind.name] for kind in kinds if kind.unit == "s" and kind.lower_is_better},
        "timelines": [_line(result, timeline) for timeline in result.timelines],
        "engines": engines,
    }


def _line(result: CaseResult, timeline: Timeline) -> dict[str, Any]:
    """One request's line in requests.jsonl."""
    parts = waterfall.parts(timeline) if timeline.token_times else None
    return {"case": result.case.name, **timeline.as_json(result.origin), "waterfall": parts}
