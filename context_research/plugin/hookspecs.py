"""Hooks for those who add engines, metrics or provenance: implement them in a conftest.py or a plugin of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from context_research.engines.base import Engine
from context_research.hardware.devices import Placement
from context_research.measure.metrics import Metric
from context_research.models.model import Model
from context_research.settings.schema import Settings


@pytest.hookspec(firstresult=True)
def pytest_context_research_make_engine(
    settings: Settings, model: Model, placement: Placement, log: Path
) -> Engine | None:
    """Return an engine, not yet started, for one placement; None leaves it to the next plugin, and at last to vLLM."""


@pytest.hookspec
def pytest_context_research_metrics(settings: Settings) -> Sequence[Metric]:
    """Return metrics to add to the built-in ones; `settings` are the run's."""
    del settings
    return ()


@pytest.hookspec
def pytest_context_research_manifest(manifest: dict[str, Any]) -> None:
    """Add what your site needs to `environment_manifest`, in place, before the run's first artifact is written."""


@pytest.hookspec
def pytest_context_research_case_finished(case: Mapping[str, Any], run_folder: Path) -> None:
    """Called on the controller once a case's summary entry (`case`) and timelines are on disk."""


@pytest.hookspec
def pytest_context_research_run_finished(run_folder: Path, session: pytest.Session) -> None:
    """Called on the controller once a run's artifacts and report are whole; may set `session.exitstatus`."""
