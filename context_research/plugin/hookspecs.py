"""Hooks for those who add to this: implement them in a conftest.py, a plugin, or a module of the entry-point group.

docs/extending.md walks through a package that has one of each. Types are imported for type checkers alone: pytest reads
this file in every project that has the plugin installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from context_research.engines.base import Engine
    from context_research.hardware.placement import Placement
    from context_research.measure.checks.registry import Check
    from context_research.measure.metrics import Metric
    from context_research.models.model import Model
    from context_research.report.sections import Section
    from context_research.settings.experiments import Experiment
    from context_research.settings.schema import Settings
    from context_research.workload.arrivals import ArrivalProcess


@pytest.hookspec
def pytest_context_research_experiments(config: pytest.Config) -> Sequence[Experiment]:  # type: ignore[empty-body]
    """Return experiments: each with its name, the folder of its test, and the folder of its YAML."""


@pytest.hookspec(firstresult=True)
def pytest_context_research_make_engine(
    settings: Settings, model: Model, placement: Placement, log: Path
) -> Engine | None:
    """Return an engine, not yet started, for one placement; None leaves it to the next plugin, and at last to the run's
    backend. The folder of `log` is there."""


@pytest.hookspec
def pytest_context_research_metrics(settings: Settings) -> Sequence[Metric]:  # type: ignore[empty-body]
    """Return metrics to add to the built-in ones; `settings` are the run's."""


@pytest.hookspec
def pytest_context_research_checks(settings: Settings) -> Sequence[Check]:  # type: ignore[empty-body]
    """Return validity checks to add to the built-in ones; `settings` are the run's."""


@pytest.hookspec
def pytest_context_research_arrivals() -> Mapping[str, ArrivalProcess]:  # type: ignore[empty-body]
    """Return arrival processes by the names that `workload.arrivals` calls them."""


@pytest.hookspec
def pytest_context_research_report_sections(run_folder: Path) -> Sequence[Section]:  # type: ignore[empty-body]
    """Return sections for the end of a run's report, made from the records in its folder."""


@pytest.hookspec
def pytest_context_research_manifest(manifest: dict[str, Any]) -> None:
    """Add what your site needs to `environment_manifest`, in place, before the run's first artifact is written."""


@pytest.hookspec
def pytest_context_research_case_finished(case: Mapping[str, Any], run_folder: Path) -> None:
    """Called on the controller once a case's summary entry (`case`) and timelines are on disk."""


@pytest.hookspec
def pytest_context_research_run_finished(run_folder: Path, session: pytest.Session) -> None:
    """Called on the controller once a run's artifacts and report are whole; may set `session.exitstatus`."""
