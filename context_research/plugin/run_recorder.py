"""A run's record on disk, from before its first test to its last signal. Lives on the controller only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

import pytest

from context_research import signals
from context_research.errors import StorageFailure, UsageProblem
from context_research.hardware.manifest import environment_manifest
from context_research.measure import capacity
from context_research.plugin.attempts import Attempt
from context_research.plugin.benchmark_rows import RowSink
from context_research.plugin.session import Session
from context_research.records import redact, store
from context_research.records.case import CaseRecord, FinishedCase
from context_research.records.files import RunFiles
from context_research.records.requests import FileRecord
from context_research.records.run import ManifestRecord, RunRecord, new_run
from context_research.records.running import Running
from context_research.records.summary import CapacityRecord, SummaryRecord
from context_research.report import sections, terminal
from context_research.report.sections import Section


class Recorder:
    """A pytest plugin: begins the record, adds each case as it ends, and says at last how the run ended."""

    def __init__(self, session: Session, rows: RowSink) -> None:
        self._session, self._rows = session, rows
        self._run: RunRecord | None = None
        self._cases: list[CaseRecord] = []
        self._requests_file: FileRecord | None = None
        self._last: FinishedCase | None = None
        """The case that ended last."""
        self._again: dict[str, list[Attempt]] = {}
        """What test left before it was run again, by its node id: pytest-rerunfailures does that."""
        self._ended_by: str | None = None
        """Name of the exception that ended the session early."""
        self._cannot_start: str | None = None
        self._unwritable: str | None = None
        """Why nothing more could be written, which ended the session."""
        self._unsaved: str | None = None
        """What else could not be written: the run counts without it."""
        self._running: Running | None = None

    @property
    def files(self) -> RunFiles:
        return self._session.files

    @property
    def begun(self) -> bool:
        return self._run is not None

    def _begin(self, planned: int | None) -> None:
        """Raises pytest.UsageError: nothing can be written, or another process resumed the run."""
        started = self._new() if self._session.resumption is None else None
        try:
            self._running = Running(self.files, again=started is None)
            self._run = started or self._go_on()
            kept = len(self._run.cases)
            self._write(status="running", pid=os.getpid(), planned=None if planned is None else kept + planned)
        except UsageProblem as problem:
            raise pytest.UsageError(str(problem)) from None

    def _new(self) -> RunRecord:
        session = self._session
        command = ["pytest", *map(str, session.config.invocation_params.args)]
        manifest = environment_manifest()
        session.config.hook.pytest_context_research_manifest(manifest=manifest)
        record = ManifestRecord.model_validate(manifest)
        return new_run(self.files.run_id, session.resolved, session.model, command, record)

    def _go_on(self) -> RunRecord:
        """What is kept of the run counts as if it had been measured now. Raises UsageProblem."""
        resumption = self._session.resumption
        assert resumption is not None
        run, summary = resumption.take_over(), resumption.kept.summary
        self._cases, self._requests_file = list(summary.cases), summary.requests_file
        for finished in resumption.finished:
            self._last = finished
            self._rows.add(finished)
        return run

    def _write(self, **changes: object) -> None:
        """Change the record, and write both of its files."""
        assert self._run is not None  # begun
        self._run = self._run.model_copy(update=changes)
        store.write(self.files.metadata, self._run)
        summary = SummaryRecord.of(self._run, self._cases, self._requests_file, self._capacities)
        store.write(self.files.summary(self._run.experiment), summary)

    @property
    def _capacities(self) -> tuple[CapacityRecord, ...]:
        """Of the cases so far."""
        devices = max((window.devices for window in self._last.windows), default=1) if self._last else 1
        return capacity.of_cases(self._cases, self._session.resolved.settings, devices)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if self._session.idle:
            return
        planned = sum(map(self._session.owns, session.items))
        # An xdist controller collects nothing: its workers tell it how many cases there are.
        distributed = session.config.pluginmanager.hasplugin("dsession")
        if planned or distributed or self._session.resumption:
            with signals.uninterruptible():
                self._begin(None if distributed else planned)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        del node
        if self.begun:
            self._write(planned=sum(map(self._session.is_ours, ids)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with signals.uninterruptible():  # a finished case is kept, whatever ends the session
            try:
                self._note(report)
            except StorageFailure as failure:
                self._stop(str(failure))

    def _insist(self, write: Callable[[], None]) -> None:
        """Write; where there is no space, into that which is kept for it, and end the session.

        Raises StorageFailure.
        """
        try:
            write()
        except StorageFailure as failure:
            self._stop(str(failure))
            write()

    def _stop(self, why: str) -> None:
        """No other case could be kept."""
        if self._unwritable is None:
            self._unwritable = why
            plugins = self._session.config.pluginmanager
            for loop in (plugins.get_plugin("session"), plugins.get_plugin("dsession")):
                if loop is not None:
                    loop.shouldstop = why
        if self._running is not None:
            self._running.spend()

    def _note(self, report: pytest.TestReport) -> None:
        # A crashed xdist worker's report is made by xdist: only its name tells whose it is.
        crashed = str(report.when) == "???" and self._session.is_ours(report.nodeid)
        ours = crashed or getattr(report, "context_research_experiment", False)
        if not self.begun or not ours or not (report.when == "call" or report.failed):
            return
        left: str | None = getattr(report, "context_research_case", None)
        self._cannot_start = getattr(report, "context_research_cannot_start", None) or self._cannot_start
        assert self._run is not None  # begun
        attempt = Attempt.of(report, left)
        if attempt.again:
            self._again.setdefault(report.nodeid, []).append(attempt)
        outcomes = self._run.cases | {attempt.name: report.outcome}
        if attempt.finished is None or attempt.again:
            self._insist(lambda: self._write(cases=outcomes))
        else:
            self._add(attempt.finished, attempt, outcomes)

    def _add(self, finished: FinishedCase, attempt: Attempt, outcomes: dict[str, str]) -> None:
        """Keep a case whose test will not be run again."""
        assert self._run is not None  # begun
        lines = [*finished.windows, *finished.requests]
        with contextlib.suppress(StorageFailure):  # there were too many for the space that is kept: its figures are not
            self._insist(lambda: store.append_lines(self.files.requests, lines))
            self._requests_file = FileRecord.of(self.files.requests)
        before = tuple(earlier.failure for earlier in self._again.pop(attempt.nodeid, ()))
        case = attempt.case(finished).model_copy(update={"reruns": before})
        self._cases.append(case)
        self._last = finished
        if attempt.passed:
            self._rows.add(finished)
        elif case.status == "invalid":
            self._rows.withdraw()
        engines = self._run.engines + tuple(one for one in finished.engines if one not in self._run.engines)
        self._insist(lambda: self._write(cases=outcomes, engines=engines))
        self._session.config.hook.pytest_context_research_case_finished(
            case=case.model_dump(mode="json"), run_folder=self.files.folder
        )

    def _add_unrepeated(self) -> None:
        """Keep the last time of cases that were to be run again, and measured nothing then."""
        assert self._run is not None  # begun
        for last in [attempts[-1] for attempts in self._again.values()]:
            self._again[last.nodeid].pop()
            if last.finished is not None:
                self._add(last.finished, last, self._run.cases)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._ended_by = excinfo.typename
        self._because(str(excinfo.value) or excinfo.typename)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._because(f"{excinfo.typename}: {excinfo.value}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        try:
            if self._last is not None:
                for each in self._capacities:
                    self._rows.add_capacity(self._last, each)
            # Engines are closed, rows saved and summaries printed inside.
            return (yield)
        except OSError as error:  # pytest-benchmark's rows, a JUnit file: the run is whole without them
            if not self.begun:
                raise
            self._unsaved = f"what pytest's plugins write: {error}"
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
            return None
        except BaseException as error:
            # --benchmark-compare-fail: the run is whole, and slower than another.
            if type(error).__name__ != "PerformanceRegression":
                self._because(f"{type(error).__name__}: {error}")
            raise
        finally:
            if self.begun:
                self._end(session)

    def _because(self, reason: str) -> None:
        """Keep why the run ends as it does, for the next writing."""
        if self._run is not None:
            self._run = self._run.model_copy(update={"reason": reason})

    def cut_short(self, by: signals.Interrupted, exit_status: int) -> None:
        """The process is about to end amid whatever it does: say so, unless the record already says how it ended."""
        if self._run is not None and self._run.finished is None:
            self._write(status="interrupted", reason=f"{by} twice", exit_status=exit_status, finished=store.now())
            if self._running is not None:
                self._running.end()

    def _end(self, session: pytest.Session) -> None:
        if why := self._cannot_start or self._unwritable:
            self._because(why)
        try:
            self._add_unrepeated()
            changes = {"status": self._status(session), "exit_status": int(session.exitstatus)}
            self._insist(lambda: self._write(**changes, finished=store.now()))
            self._report(session)
        except StorageFailure as failure:  # what there is says `running`, and its lock is free: it is known to be dead
            self._tell(session, str(failure))
        finally:
            assert self._running is not None  # begun
            self._running.end()

    def _report(self, session: pytest.Session) -> None:
        """What is made of a run that is whole on disk: it can be made again. Raises StorageFailure."""
        from context_research.report import run

        assert self._run is not None  # begun
        assert self._running is not None
        self._running.spend()
        for log in self.files.logs.rglob("*.log"):  # engines are closed
            redact.log(log)
        recorded = self._run
        if self._unsaved:
            self._tell(session, self._unsaved)
        try:
            sections.keep(self.files, self._added_sections(session))
            run.write(self.files)
        except Exception as failure:  # also what drawing may raise: the figures are on disk, and count
            told = str(failure) if isinstance(failure, UsageProblem) else f"{type(failure).__name__}: {failure}"
            self._tell(session, f"no report: {told}; later `context-research report {self._run.run_id}` makes it")
            self._running.spend()
        session.config.hook.pytest_context_research_run_finished(run_folder=self.files.folder, session=session)
        if recorded != (now := self._run.model_copy(update={"exit_status": int(session.exitstatus)})):
            self._run = now
            self._write()

    def _tell(self, session: pytest.Session, problem: str) -> None:
        """Something is missing beside the figures: said, and kept with the run, which counts all the same."""
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        self._because("; ".join(part for part in (self._run.reason if self._run else None, problem) if part))
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"context-research: {problem}", red=True)

    def _added_sections(self, session: pytest.Session) -> list[Section]:
        try:
            added = session.config.hook.pytest_context_research_report_sections(run_folder=self.files.folder)
        except Exception as error:  # a plugin's fault must not cost the report of a long run
            return [Section("Sections that plugins add", f"They could not be made: {type(error).__name__}: {error}")]
        return [section for some in added for section in some or ()]

    def _status(self, session: pytest.Session) -> str:
        assert self._run is not None  # begun
        outcomes = self._run.cases
        if session.exitstatus == pytest.ExitCode.INTERNAL_ERROR or self._cannot_start or self._unwritable:
            return "error"
        if any(case.status == "invalid" for case in self._cases):
            return "invalid"
        if "failed" in outcomes.values():
            return "failed"
        if self._ended_by:
            return "interrupted"
        if self._run.reason:
            return "error"
        passed = sum(outcome == "passed" for outcome in outcomes.values())
        return "completed" if passed and passed == self._run.planned else "incomplete"

    @pytest.hookimpl(trylast=True)  # below pytest-benchmark's tables
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._run is not None:
            terminalreporter.section("context-research")
            if self._run.planned == 0:
                terminalreporter.write_line("no case is selected (-m, -k); --collect-only without -n says why")
            for line in terminal.lines(self._run, self._cases):
                terminalreporter.write_line(line)
            terminalreporter.write_line(f"run     {_shown(self.files.folder)}")
            terminalreporter.write_line(f"report  {_shown(self.files.report)}")
            if self._run.planned and [case.status for case in self._cases] == ["passed"] * self._run.planned:
                terminalreporter.write_line(f"compare context-research verdict OTHER_RUN {self._run.run_id}")


def _shown(path: Any) -> str:
    """Relative to where the user stands, if it is below."""
    return os.path.relpath(path) if path.is_relative_to(os.getcwd()) else str(path)  # noqa: PTH109
