"""The fixtures by which a test measures: under names of ours, which nobody overrides by accident."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from context_research import signals
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure.case import measure
from context_research.measure.result import CaseResult
from context_research.plugin import finished
from context_research.plugin.benchmark_rows import disabled
from context_research.plugin.engines import SessionEngines
from context_research.plugin.options import worded
from context_research.plugin.progress import ProgressLine
from context_research.plugin.session import SESSION
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
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
        request.node.stash[CASE] = finished.measured(
            request.node, session, result, topology.describe()
        ).model_dump_json(by_alias=True)
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
