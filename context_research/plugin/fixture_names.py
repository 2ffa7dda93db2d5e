"""The fixtures' short names: settings, seed, workload, serving, engine, serving_run.

An experiment's tests have them; no other test does, nor does any where the project or another plugin has a fixture of
that name. None of ours depends on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from context_research.engines.base import Engine
    from context_research.measure.result import CaseResult
    from context_research.serving.topology import Topology
    from context_research.settings.schema import Settings
    from context_research.settings.workload import Workload


def settings(context_research_settings: Settings) -> Settings:
    """The run's settings, resolved."""
    return context_research_settings


def seed(context_research_settings: Settings) -> int:
    """The run's seed."""
    assert context_research_settings.seed is not None  # the plugin refuses a run without one
    return context_research_settings.seed


def workload(context_research_settings: Settings) -> Workload:
    """The run's workload settings."""
    return context_research_settings.workload


def serving(context_research_serving: Topology) -> Topology:
    """The serving mode at work: its engines, started when a test first asks for them, closed with the session."""
    return context_research_serving


def engine(context_research_serving: Topology) -> Engine:
    """The engine whose tokens the client sees; the first, where there are several."""
    return context_research_serving.decoders[0]


def serving_run(context_research_serving_run: Callable[..., CaseResult]) -> Callable[..., CaseResult]:
    """Measures one case, once a test; fails it if a validity check fails."""
    return context_research_serving_run


_OF_A_SESSION = (settings, seed, workload, serving, engine)


def offer(collector: pytest.Collector) -> None:
    """Give the tests of this collector's module those names that are free there. Again does nothing."""
    for function in _OF_A_SESSION:
        _register(collector, function.__name__, function, "session")
    _register(collector, "serving_run", serving_run, "function")


def refuse(collector: pytest.Collector, experiment: str) -> None:
    """Give them a `serving_run` that says what is missing: marked tests without settings may be another project's."""

    def serving_run() -> None:
        pytest.fail(
            f"experiment {experiment} has no settings: name a YAML file (--cr-experiment-config FILE), or put it at "
            f"configs/experiments/{experiment}.yaml; if it is a package's, install the package",
            pytrace=False,
        )

    _register(collector, "serving_run", serving_run, "function")


def _register(
    collector: pytest.Collector, name: str, function: Callable[..., object], scope: Literal["session", "function"]
) -> None:
    module = collector.getparent(pytest.Module)
    assert module is not None  # only a module's tests are asked about
    # pytest has no public way to ask what is there; register_fixture alone would take precedence over a conftest's.
    if not collector.session._fixturemanager.getfixturedefs(name, module):
        pytest.register_fixture(name=name, func=function, node=module, scope=scope)
