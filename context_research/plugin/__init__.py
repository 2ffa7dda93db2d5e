"""The pytest plugin, as every project meets it that has us installed: options, markers, and a watch for experiments.

Entry point `pytest11`. All that measures comes with `experiment_hooks`, once an experiment is selected; until then the
standard library and pytest are all that is imported (tests/fast/plugin/test_guest.py).
"""

from __future__ import annotations

from collections.abc import Generator
from inspect import getattr_static

import pytest

from context_research.errors import UsageProblem
from context_research.plugin import fixture_names, hookspecs, options, selection
from context_research.settings.experiments import Experiment

MARKERS = {
    "experiment(name)": "a benchmark of this experiment; gets gpu, cpu or simulated from the run's backend and device",
    "gpu": "runs on a CUDA device",
    "cpu": "runs on the CPU",
    "simulated": "runs on the simulated backend",
}
_ACTIVE = "context-research-experiment"
"""Name of the plugin `experiment_hooks`."""
_PROBLEM = pytest.StashKey[str]()
"""Why the experiment can't be told."""
ENDED_BY = pytest.StashKey[int]()
"""Exit status of a session that a signal ended, also before its first test: pytest has one for every such end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser
) -> Generator[None, object, object]:
    result = yield
    options.add_short(parser, early_config)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")
    try:
        experiment = selection.of_session(config)
        if experiment is not None:
            _activate(config, experiment, late=False)
    except UsageProblem as problem:
        config.stash[_PROBLEM] = str(problem)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    status = yield
    return config.stash.get(ENDED_BY, status)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    _tell_problem(session.config)
    if session.config.getoption("dist", "no") != "no":  # the controller of workers, which collects nothing
        _refuse_idle_options(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    _tell_problem(config)
    if not hasattr(config, "workerinput"):
        _refuse_idle_options(config)


def _tell_problem(config: pytest.Config) -> None:
    if problem := config.stash.get(_PROBLEM, None):
        raise pytest.UsageError(options.worded(problem, config))


def _refuse_idle_options(config: pytest.Config) -> None:
    """Options that would do nothing."""
    for flag in ("--verdict-against", "--resume"):
        if config.getoption(options.dest(flag)) and not config.pluginmanager.has_plugin(_ACTIVE):
            problem = f"{flag}: no experiment is selected, name one: pytest benchmarks/e0"
            raise pytest.UsageError(options.worded(problem, config))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Have all that measures ready before pytest looks for the fixtures that a marked test asks for."""
    if not (collector.funcnamefilter(name) or collector.classnamefilter(name)):
        return
    mark = collector.get_closest_marker("experiment") or _own_mark(obj)
    config = collector.config
    if mark is None or _PROBLEM in config.stash:
        return
    try:
        name, experiment = selection.by_marker(config, mark, collector.path)
        if experiment is None:
            fixture_names.refuse(collector, name)
            return
        if config.pluginmanager.has_plugin(_ACTIVE):
            selection.check_same(config, name)
        else:
            _activate(config, experiment, late=True)
        fixture_names.offer(collector)
    except UsageProblem as problem:  # told once collection, which would show a traceback, is over
        config.stash[_PROBLEM] = str(problem)


def _own_mark(obj: object) -> pytest.Mark | None:
    marks = getattr_static(obj, "pytestmark", ())  # static: runs no code of an object that is no test
    for mark in marks if isinstance(marks, list) else [marks]:
        if isinstance(mark, pytest.Mark | pytest.MarkDecorator) and mark.name == "experiment":
            return mark if isinstance(mark, pytest.Mark) else mark.mark
    return None


def _activate(config: pytest.Config, experiment: Experiment, late: bool) -> None:
    selection.load_packages(config)
    selection.select(config, experiment)
    from context_research.plugin import experiment_hooks

    config.pluginmanager.register(experiment_hooks, _ACTIVE)
    experiment_hooks.activate(config, experiment, late)
