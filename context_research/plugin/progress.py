"""Shows a person how far a case is: one updating line on a terminal, else a plain line every 30 s."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pytest

from context_research.measure.progress import Progress

PLAIN_EVERY_S = 30.0


class ProgressLine:
    """Writes past pytest's capture, from the main thread. Silent in xdist workers, which have no terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")
        self._reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        self._written = perf_counter()
        self._shown = False

    def note(self, text: str) -> None:
        """A plain line of its own, such as that engines are starting."""
        self._write(lambda reporter: (reporter.ensure_newline(), reporter.write_line(text)))

    def show(self, progress: Progress) -> None:
        """Call as often as you like."""
        if self._reporter is None:
            return
        text = format_progress(progress)
        if self._reporter.isatty:
            self._write(lambda reporter: reporter.rewrite(text, erase=True))
            self._shown = True
        elif perf_counter() - self._written >= PLAIN_EVERY_S:
            self.note(text)

    def clear(self) -> None:
        """Take the updating line away, for pytest's own result."""
        if self._shown:
            self._write(lambda reporter: reporter.rewrite("", erase=True))
            self._shown = False

    def _write(self, write: Any) -> None:
        self._written = perf_counter()
        if self._reporter is None:
            return
        if self._capture is None:
            write(self._reporter)
            return
        with self._capture.global_and_fixture_disabled():
            write(self._reporter)
            self._reporter.flush()


def format_progress(progress: Progress) -> str:
    """``e0 p1024-c4: 12/53 requests, 431 tokens/s, 9 s, 31 s left``; of a load with moments of its own
    ``e2 rate_4: 212 due, 9 in flight, 203 done, 3.9/s, 431 tokens/s, 41 s left``.
    """
    if progress.timed:
        parts = [f"{progress.due} due", f"{progress.in_flight} in flight", f"{progress.done} done"]
        parts += [f"{progress.rate:.1f}/s", f"{progress.token_rate:.0f} tokens/s"]
    else:
        parts = [f"{progress.done}/{progress.total} requests", f"{progress.token_rate:.0f} tokens/s"]
        parts.append(f"{progress.elapsed:.0f} s")
    if progress.left is not None:
        parts.append(f"{progress.left:.0f} s left{', simulated' if progress.simulated else ''}")
    return f"{progress.case}: {', '.join(parts)}"
