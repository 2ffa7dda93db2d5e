"""A run goes on that ended before its last case: which of its tests run, and whether it would still be the same run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from context_research.backends.registry import named
from context_research.compare import observations
from context_research.errors import UsageProblem
from context_research.hardware.manifest import environment_manifest
from context_research.plugin import finished
from context_research.plugin.attempts import case_name
from context_research.plugin.benchmark_rows import disabled
from context_research.plugin.options import worded
from context_research.plugin.session import Session
from context_research.records import kept, redact, store
from context_research.records.case import FinishedCase
from context_research.records.files import find_run
from context_research.records.run import ManifestRecord, ResumedRecord, RunRecord, new_run
from context_research.workload.case import Case

_ABSENT = "absent"


class Resumption:
    """A pytest plugin of the session that resumes. Raises UsageProblem: it can't, or would be another run."""

    def __init__(self, session: Session) -> None:
        config = session.config
        if config.getoption("context_research_run_id"):
            raise UsageProblem("--resume and --run-id: the run has its name already; leave --run-id out")
        if config.getoption("dist", "no") != "no":
            raise UsageProblem("--resume goes on in one process: leave -n (xdist) out")
        self._session = session
        self.kept = kept.of(find_run(session.outputs, config.getoption("context_research_resume")))
        self.finished: tuple[FinishedCase, ...] = ()
        """The cases that are kept, once the session's own are known."""
        self._tests: dict[str, tuple[pytest.Item, Case]] = {}
        """The tests of the cases that are kept, by name."""
        self._check_same()

    @property
    def outcomes(self) -> dict[str, str]:
        """What the record has of the tests that need not run again."""
        return {case_name(test.nodeid): "passed" for test, _ in self._tests.values()}

    @pytest.hookimpl(tryfirst=True)  # before -k and -m: what is kept is kept, whichever cases they select
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        measured = {case.name for case in self.kept.summary.cases}
        gone, left = list[pytest.Item](), list[pytest.Item]()
        for item in items:
            case = finished.case_of(item) if self._session.owns(item) and finished.measures(item) else None
            if case is not None and case.name in measured:
                self._tests[case.name] = (item, case)
                gone.append(item)
            else:
                left.append(item)
        count, kind = self._session.collected
        self._session.collected = (count - len(gone), kind)
        if gone:
            items[:] = left
            config.hook.pytest_deselected(items=gone)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        if self._session.idle:
            return
        try:
            self._check_cases()
            self.finished = tuple(self._read_back())
        except UsageProblem as problem:
            raise pytest.UsageError(worded(str(problem), self._session.config)) from None

    def pytest_report_collectionfinish(self) -> str:
        return f"  {self.kept.files.run_id} goes on {self.kept.told}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that was killed after its last case is whole, though no test ran."""
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._tests and not self._session.idle:
            session.exitstatus = pytest.ExitCode.OK

    def take_over(self) -> RunRecord:
        """The record as it goes on, with nothing half-written beside it. The run's lock is ours.

        Raises UsageProblem: another process resumed it meanwhile; StorageFailure.
        """
        files, run = self.kept.files, self.kept.run
        if store.read(files.metadata, RunRecord).model_copy(update={"reason": run.reason}) != run:
            raise UsageProblem(f"run {files.run_id} was resumed by another process meanwhile")
        if files.requests.exists():
            counted = self.kept.summary.requests_file
            with store.writing(files.requests):
                os.truncate(files.requests, counted.size if counted else 0)
        after = self.kept.summary.cases[-1].name if self.kept.summary.cases else None
        resumed = ResumedRecord(stopped=self.kept.stopped, at=store.now(), after=after)
        changes = {"cases": self.outcomes, "resumed": (*run.resumed, resumed)}
        return run.model_copy(update={**changes, "reason": None, "finished": None, "exit_status": None})

    def _check_same(self) -> None:
        """Raises UsageProblem, naming the first key in which the run would be another one now."""
        session, run = self._session, self.kept.run
        manifest = environment_manifest()
        session.config.hook.pytest_context_research_manifest(manifest=manifest)
        record = ManifestRecord.model_validate(manifest)
        now = new_run(run.run_id, session.resolved, session.model, [], record)
        # Which GPUs were used is told by the engines; those to come will be on the same.
        before, after = (dict(_flat(_identity(one))) for one in (run, now.model_copy(update={"engines": run.engines})))
        for key in [*before, *after]:
            if (was := before.get(key, _ABSENT)) != (is_now := after.get(key, _ABSENT)):
                raise UsageProblem(
                    f"run {run.run_id} had {key} {was}, and it is {is_now} now: set it back, or run anew without "
                    "--resume"
                )

    def _check_cases(self) -> None:
        """Raises UsageProblem: the cases, kept ones and those to come, are not those that were planned."""
        run = self.kept.run
        for case in self.kept.summary.cases:
            if case.name not in self._tests:
                raise UsageProblem(f"run {run.run_id} measured {case.name}, and no test here does: run it anew")
            _, measured = self._tests[case.name]
            wanted = 1 if disabled(self._session.config) else measured.settings.workload.repeats
            if len(case.repeats) != wanted:
                told = f"{len(case.repeats)} repeats of {case.name}, and it would be {wanted} now"
                raise UsageProblem(f"run {run.run_id} had {told}: --benchmark-disable as before")
        if run.planned != (now := len(self._tests) + len(self._session.selected)):
            raise UsageProblem(f"run {run.run_id} had {run.planned} cases, and it would be {now}: select the same ones")

    def _read_back(self) -> Iterator[FinishedCase]:
        """Raises UsageProblem: a case's requests were not written, as the disk was full."""
        files, summary = self.kept.files, self.kept.summary
        lines = summary.requests_file.lines if summary.requests_file else 0
        repeats = observations.read(files, lines) if lines else {}
        for record in summary.cases:
            if (own := repeats.get(record.name)) is None:
                raise UsageProblem(f"run {files.run_id}: the requests of {record.name} are not in {files.requests}")
            yield finished.read_back(*self._tests[record.name], self._session, record, own, self.kept.run.engines)


def _identity(run: RunRecord) -> dict[str, Any]:
    """What must stay: settings, model, software, machine. Not where the files are, nor how fast a clock ticks now."""
    manifest, ours = run.environment_manifest, "CONTEXT_RESEARCH_"
    plain: dict[str, Any] = redact.plain(
        {
            "experiment": run.experiment,
            **{key: value for key, value in run.settings.items() if key != "outputs"},
            **{f"model.{key}": value for key, value in run.model.model_dump(mode="json").items()},
            "versions": manifest.versions,
            # Those with our prefix are settings.
            "variables": {name: value for name, value in manifest.variables.items() if not name.startswith(ours)},
            **named(run.backend).labels.facts(run),
        }
    )
    return plain


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
