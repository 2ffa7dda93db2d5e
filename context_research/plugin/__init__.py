"""The pytest plugin: options, markers, and the hooks that join settings, cases, rows and artifacts.

Entry point `pytest11`. Imports neither torch nor vLLM; those come with the first engine.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from context_research.engines.base import Engine
from context_research.errors import UsageProblem
from context_research.hardware import devices, manifest
from context_research.hardware.devices import Placement
from context_research.models.model import Model
from context_research.plugin import hookspecs
from context_research.plugin.benchmark_rows import RowSink
from context_research.plugin.benchmark_tables import pytest_benchmark_scale_unit as pytest_benchmark_scale_unit
from context_research.plugin.fixtures import CASE
from context_research.plugin.run_recorder import Recorder
from context_research.plugin.session import SESSION, Session
from context_research.plugin.xdist import Lender
from context_research.serving import backends, preflight
from context_research.serving.build import make_engine
from context_research.settings.options import OPTIONS, share
from context_research.settings.schema import Settings
from context_research.settings.sources import Resolved
from context_research.workload.case import Case, parameters

pytest_plugins = ["context_research.plugin.fixtures"]
MARKERS = {
    "experiment(name)": "a benchmark of this experiment; gets gpu, cpu or simulated from the run's backend and device",
    "gpu": "runs on a CUDA device",
    "cpu": "runs on the CPU",
    "simulated": "runs on the simulated backend",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("context-research", "disaggregated-serving benchmarks on real vLLM")
    for option in OPTIONS:
        group.addoption(option.flag, dest=option.dest, metavar=option.metavar, default=None, help=option.help)
        parser.addini(option.ini, f"{option.help} ({option.flag})", default=None)
    group.addoption(
        "--set",
        dest="context_research_set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, by its name in the YAML files: engine.max_num_batched_tokens=4096; may be repeated",
    )
    group.addoption(
        "--verdict-against",
        dest="context_research_verdict_against",
        metavar="RUN",
        help="compare this run with an earlier one (id or folder) and fail if a primary metric is worse",
    )
    group.addoption(
        "--start-noise",
        dest="context_research_start_noise",
        metavar="10%",
        type=share,
        help="with --verdict-against: how far two starts of the same engines lie apart on this machine",
    )
    group.addoption(
        "--run-id",
        dest="context_research_run_id",
        metavar="ID",
        help="name of the run's folder; adopts one from init-run",
    )
    group.addoption(
        "--device-groups",
        dest="context_research_device_groups",
        metavar="'0;1'",
        help="with xdist: the devices of each worker, groups separated by ';' (default: one group, all devices)",
    )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")
    session = config.stash[SESSION] = Session(config)
    if session.worker is None:
        config.pluginmanager.register(Recorder(session, RowSink(config)), "context-research-recorder")
        _exit_on_sigterm(config)


def _exit_on_sigterm(config: pytest.Config) -> None:
    """A SIGTERM ends the session in order, as Ctrl-C does: engines closed, artifacts written."""

    def leave(number: int, _: object) -> None:
        pytest.exit(f"{signal.Signals(number).name} received", returncode=128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: pytest was embedded, and signals are its host's
        return
    config.add_cleanup(functools.partial(_restore, previous))


def _restore(handler: Any) -> None:
    signal.signal(signal.SIGTERM, handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse what can be refused before collection; under xdist, where workers collect, everything."""
    ours = session.config.stash[SESSION]
    if ours.worker is not None:
        return
    try:
        against = session.config.getoption("context_research_verdict_against")
        noise = session.config.getoption("context_research_start_noise")
        if noise is not None and not against:
            raise UsageProblem("--start-noise belongs to --verdict-against RUN")
        if ours.experiment is None:
            if against:
                raise UsageProblem("--verdict-against: no experiment is selected, name one: pytest benchmarks/e0")
            return
        _ = ours.cases
        if session.config.getoption("dist", "no") != "no" and not ours.idle:
            preflight.check_backend(ours.resolved.settings)
            lender = Lender(session.config, ours)
            ours.check(ours.cases, lender.shares)
            session.config.pluginmanager.register(lender, "context-research-lender")
        if against and not ours.idle:
            from context_research.plugin.regression_gate import Gate

            session.config.pluginmanager.register(Gate(ours, against, noise), "context-research-gate")
    except UsageProblem as problem:
        raise pytest.UsageError(str(problem)) from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    session = config.stash[SESSION]
    if session.experiment is None:
        return []
    chosen = session.resolved.settings
    return [
        f"context-research: {_simulated(session.resolved)}"
        f"{chosen.experiment}, {chosen.serving.mode}, backend {chosen.backend}, "
        f"device {chosen.device}, seed {chosen.seed}, model {chosen.model.name} ({chosen.model.weights} weights)",
        f"  settings: {session.resolved.reason}",
    ]


def _simulated(resolved: Resolved) -> str:
    if not resolved.settings.simulated:
        return ""
    return f"SIMULATED, no engine runs{f' (the real one cannot: {resolved.fallback})' if resolved.fallback else ''}: "


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give an experiment's test each `case` of its settings, and the value of each axis that it takes by name."""
    if metafunc.definition.get_closest_marker("experiment") is None or "case" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    try:
        cases = session.cases
        if missing := sorted(set(parameters(session.resolved.settings)) - set(metafunc.fixturenames)):
            test = metafunc.definition.name
            raise UsageProblem(f"axes.{missing[0]}: neither a setting (a dotted key) nor an argument of {test}")
    except UsageProblem as problem:
        raise pytest.Collector.CollectError(str(problem)) from None
    named = [axis for axis in cases[0].axes if axis in metafunc.fixturenames]
    metafunc.parametrize(
        ("case", *named),
        [(case, *(case.axes[axis] for axis in named)) for case in cases],
        ids=[case.name for case in cases],
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """Mark experiment items before `-m` selects among them, and remember an empty selection."""
    session = config.stash[SESSION]
    ours = [item for item in items if item.get_closest_marker("experiment")]
    if ours:
        chosen = session.resolved.settings
        kind = "simulated" if chosen.backend == "simulated" else {"cuda": "gpu", "cpu": "cpu"}[chosen.device]
        for item in ours:
            item.add_marker(kind)
        session.collected = (len(ours), kind)
    result = yield
    session.selected = [item for item in items if item.get_closest_marker("experiment")]
    return result


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse what the selected cases can't do, before the first artifact and the first engine."""
    ours = session.config.stash[SESSION]
    if ours.worker is not None or ours.idle:
        return
    try:
        if not ours.selected:
            if ours.collected[0] and "simulated" in session.config.option.markexpr:
                backends.require_opt_in()
            return
        ours.check(_cases(ours))
    except UsageProblem as problem:
        raise pytest.UsageError(str(problem)) from None


def _cases(session: Session) -> list[Case]:
    """The cases of the selected items; an experiment's test need not be one."""
    given = (getattr(getattr(item, "callspec", None), "params", {}).get("case") for item in session.selected)
    return [case for case in given if isinstance(case, Case)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("experiment"):
        # vLLM's log is in the run's folder; pytest would show what of it came from this process with every failure.
        report.context_research_experiment = True  # type: ignore[attr-defined] # reports carry extra attributes
        report.context_research_cannot_start = item.config.stash[SESSION].cannot_start  # type: ignore[attr-defined]
        report.sections = [section for section in report.sections if not section[0].startswith("Captured log")]
    if report.when == "call" and CASE in item.stash:
        report.context_research_case = item.stash[CASE]  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = config.stash[SESSION]
    count, kind = session.collected
    if count and not session.selected:
        why = f"-m {config.option.markexpr!r}" if config.option.markexpr else f"-k {config.option.keyword!r}"
        device = session.resolved.settings.device
        terminalreporter.write_line(
            f"context-research: none of the {count} cases is selected by {why}; here they are marked {kind}, "
            f"as the device is {device} ({session.resolved.sources.get('device', 'given')})"
            + ("; --device-profile simulates" if "simulated" in config.option.markexpr else "")
        )


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    session = config.stash[SESSION]
    if session.experiment is not None:
        machine = devices.describe()
        machine_info["gpu"] = [gpu["name"] for gpu in machine["gpus"]]
        machine_info["driver"] = machine["driver"]
        machine_info["vllm"] = manifest.vllm_version()
        machine_info["model"] = session.model.label


@pytest.hookimpl(trylast=True)
def pytest_context_research_make_engine(settings: Settings, model: Model, placement: Placement, log: Path) -> Engine:
    """vLLM, unless another plugin made an engine."""
    return make_engine(settings, model, placement, log)
