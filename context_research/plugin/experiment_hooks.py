"""What pytest does once an experiment is selected: joins settings, cases, rows and artifacts.

Imports neither torch nor vLLM; those come with the first engine.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import pytest

from context_research.backends.simulated import require_opt_in
from context_research.errors import UsageProblem, given_twice
from context_research.hardware import devices, manifest
from context_research.plugin import fixtures
from context_research.plugin.benchmark_rows import RowSink, check_file
from context_research.plugin.benchmark_tables import Row, scale_of_ours, settle
from context_research.plugin.ending import OrderlyEnd
from context_research.plugin.finished import case_of, measures
from context_research.plugin.fixtures import CASE
from context_research.plugin.options import worded
from context_research.plugin.resume import Resumption
from context_research.plugin.run_recorder import Recorder
from context_research.plugin.selection import TOLD
from context_research.plugin.session import SESSION, Session
from context_research.plugin.xdist import Lender
from context_research.records import redact
from context_research.settings.experiments import Experiment
from context_research.workload.case import Case, parameters

NOT_LENT = (
    "an xdist worker has no devices for this: the run's experiment must be known before collection, so name its folder "
    "and its --experiment-config on the command line"
)


def activate(config: pytest.Config, experiment: Experiment, late: bool) -> None:
    """Make this session one of `experiment`. `late`: a test's marker told, during collection."""
    session = config.stash[SESSION] = Session(config, experiment, late)
    config.pluginmanager.register(fixtures, "context-research-fixtures")
    if session.worker is None:
        recorder = Recorder(session, RowSink(config))
        config.pluginmanager.register(recorder, "context-research-recorder")
        if not session.idle:
            config.pluginmanager.register(OrderlyEnd(config, recorder.cut_short), "context-research-ending")
    if session.worker is not None and TOLD not in session.worker:
        session.problem = NOT_LENT
    elif late:
        try:
            _begin(session)
        except UsageProblem as problem:
            # Collection would show a traceback of it: told when that is over.
            session.problem = str(problem)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse what can be refused before collection; under xdist, where workers collect, everything."""
    try:
        _begin(session.config.stash[SESSION])
    except UsageProblem as problem:
        raise _usage_error(problem, session.config) from None


def _begin(session: Session) -> None:
    """Raises UsageProblem."""
    if session.worker is not None:
        return
    config = session.config
    against = config.getoption("context_research_verdict_against")
    noise = config.getoption("context_research_start_noise")
    if noise is not None and not against:
        raise UsageProblem("--start-noise belongs to --verdict-against RUN")
    if config.getoption("context_research_resume"):
        session.resumption = Resumption(session)
        config.pluginmanager.register(session.resumption, "context-research-resumption")
    check_file(config)
    _ = session.cases, session.metrics, session.checks  # refused now, not after hours
    if config.getoption("dist", "no") != "no" and not session.idle:
        session.backend.check()
        lender = Lender(config, session)
        session.check(session.cases, lender.shares)
        config.pluginmanager.register(lender, "context-research-lender")
    if against and not session.idle:
        from context_research.plugin.regression_gate import Gate

        config.pluginmanager.register(Gate(session, against, noise), "context-research-gate")


def _usage_error(problem: UsageProblem | str, config: pytest.Config) -> pytest.UsageError:
    return pytest.UsageError(worded(str(problem), config))


def pytest_report_header(config: pytest.Config) -> list[str]:
    session = config.stash[SESSION]
    chosen = session.resolved.settings
    lines = [
        f"context-research: {_notice(session)}"
        f"{chosen.experiment}, {chosen.serving.mode}, backend {chosen.backend}, "
        f"device {chosen.device}, seed {chosen.seed}, model {chosen.model.name} ({chosen.model.weights} weights)",
        f"  settings: {session.resolved.reason}",
    ]
    return [worded(line, config) for line in lines]


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """What was found out since the header; the header too, where it was not known in time."""
    session = config.stash[SESSION]
    header = pytest_report_header(config) if session.late and session.selected else []
    return header + [worded(f"  {note}", config) for note in session.notes]


def _notice(session: Session) -> str:
    if not (notice := session.backend.labels.notice):
        return ""
    fallback = session.resolved.fallback
    return f"{notice}{f' (the real one cannot: {fallback})' if fallback else ''}: "


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give an experiment's test each `case` of its settings, and the value of each axis that it takes by name."""
    session = metafunc.config.stash[SESSION]
    if not session.owns(metafunc.definition) or "case" not in metafunc.fixturenames or session.problem:
        return
    try:
        cases = session.cases
        if missing := sorted(set(parameters(session.resolved.settings)) - set(metafunc.fixturenames)):
            test = metafunc.definition.name
            raise UsageProblem(f"axes.{missing[0]}: neither a setting (a dotted key) nor an argument of {test}")
    except UsageProblem as problem:
        raise pytest.Collector.CollectError(worded(str(problem), metafunc.config)) from None
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
    ours = [item for item in items if session.owns(item)]
    if session.problem and ours and session.worker is None:
        raise _usage_error(session.problem, config)
    if ours:
        kind = session.backend.marker
        for item in ours:
            item.add_marker(kind)
        session.collected = (len(ours), kind)
    result = yield
    session.selected = [item for item in items if session.owns(item)]
    return result


@pytest.hookimpl(tryfirst=True)  # what it finds is shown when collection is reported
def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse what the selected cases can't do, before the first artifact and the first engine."""
    ours = session.config.stash[SESSION]
    if ours.idle:
        return
    try:
        if not ours.selected:
            if ours.collected[0] and "simulated" in session.config.option.markexpr:
                require_opt_in()
            return
        _check_names(ours)
        if ours.worker is None:
            ours.check(_cases(ours.selected))
    except UsageProblem as problem:
        if ours.worker is None:
            raise _usage_error(problem, session.config) from None
        ours.problem = str(problem)


def _cases(items: Iterable[pytest.Item]) -> list[Case]:
    """The cases of these items."""
    return [case for item in items if (case := case_of(item)) is not None]


def _check_names(session: Session) -> None:
    """Raises UsageProblem: two tests would measure one case, and only one of them would be compared."""
    if twice := given_twice(case.name for case in _cases(filter(measures, session.selected))):
        raise UsageProblem(
            f"two tests measure the case {twice}: what they differ in has to be one of the axes of its YAML, "
            "not a parameter of pytest's or a second test"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what an earlier time left. In an xdist worker, where a session can't be refused, its tests are."""
    session = item.config.stash[SESSION]
    if CASE in item.stash:  # a plugin has it run again: it measures anew
        del item.stash[CASE]
    if session.worker is not None and session.problem and session.owns(item):
        pytest.fail(worded(session.problem, item.config), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    session = item.config.stash[SESSION]
    if session.owns(item):
        # vLLM's log is in the run's folder; pytest would show what of it came from this process with every failure.
        report.context_research_experiment = True  # type: ignore[attr-defined] # reports carry extra attributes
        report.context_research_cannot_start = session.cannot_start  # type: ignore[attr-defined]
        shown = (section for section in report.sections if not section[0].startswith("Captured log"))
        report.sections = [(title, redact.text(content)) for title, content in shown]
        if isinstance(report.longrepr, str):
            report.longrepr = redact.text(report.longrepr)
    if report.when == "call" and CASE in item.stash:
        report.context_research_case = item.stash[CASE]  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(tryfirst=True)  # pytest-benchmark prints its tables then
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    settle(config)
    session = config.stash[SESSION]
    count, kind = session.collected
    if count and not session.selected:
        why = f"-m {config.option.markexpr!r}" if config.option.markexpr else f"-k {config.option.keyword!r}"
        device = session.resolved.settings.device
        told = (
            f"context-research: none of the {count} cases is selected by {why}; here they are marked {kind}, "
            f"as the device is {device} ({session.resolved.sources.get('device', 'given')})"
        )
        simulates = "; --device-profile simulates" if "simulated" in config.option.markexpr else ""
        terminalreporter.write_line(worded(told + simulates, config))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine = devices.describe()
    machine_info["gpu"] = [gpu["name"] for gpu in machine["gpus"]]
    machine_info["driver"] = machine["driver"]
    machine_info["vllm"] = manifest.vllm_version()
    machine_info["model"] = config.stash[SESSION].model.label


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json: dict[str, object]) -> None:
    """pytest-benchmark's file holds no secret either."""
    output_json.update(redact.plain(output_json))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_scale_unit(unit: str, benchmarks: Sequence[Row]) -> tuple[str, float] | None:
    return scale_of_ours(unit, benchmarks)
