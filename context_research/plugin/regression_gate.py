"""``--verdict-against RUN``: hold a finished run against an earlier one, and fail the session if it is worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from context_research.compare import comparison, verdict
from context_research.errors import UsageProblem
from context_research.plugin.session import Session
from context_research.records import redact
from context_research.records.files import RunFiles, find_run
from context_research.report import verdicts, words


class Gate:
    """A pytest plugin, on the controller. A sound run fails by a verdict of `worse`, or if none can be had."""

    def __init__(self, session: Session, name: str, start_noise: float | None) -> None:
        """Raises UsageProblem: what can be known not to be comparable, before any engine starts."""
        self._name, self._start_noise = name, start_noise
        # Found now: `latest` would be the session's own run once that is finished.
        self._earlier = comparison.load(find_run(session.files.outputs, name))
        chosen = session.resolved.settings
        for what, now in (("experiment", chosen.experiment), ("backend", chosen.backend), ("seed", chosen.seed)):
            if (then := getattr(self._earlier.metadata, what)) != now:
                raise UsageProblem(f"--verdict-against {name}: its {what} is {then}, this run's {now}")
        sides = (self._earlier.metadata.settings, redact.plain(chosen.model_dump(mode="json")))
        before, after = map(comparison.settled, sides)
        comparison.check_same(f"{self._earlier.files.run_id} and this run", before, after, ())
        if not session.backend.measured:
            raise UsageProblem(
                f"--verdict-against {name}: runs of the {session.backend.name} backend get no verdict, as nothing is "
                "measured; `context-research verdict` shows their ratios"
            )

    def pytest_context_research_run_finished(self, run_folder: Path, session: pytest.Session) -> None:
        terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        terminal.section(f"context-research: verdict against {self._earlier.files.run_id}")
        try:
            finished = comparison.load(RunFiles(run_folder.parent.parent, run_folder.name))
            judged = verdict.judge(comparison.of_runs(self._earlier, finished), start_noise=self._start_noise)
        except UsageProblem as problem:
            terminal.write_line(f"no verdict: {problem}")
            session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR
            return
        terminal.write_line(verdicts.terminal_table(judged))
        terminal.write_line(words.headline(judged))
        if judged.worse:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
