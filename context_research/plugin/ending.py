"""A signal ends a session in order: no finished case is lost, engines are closed, the record says what happened.

Signals interrupt a test and its fixtures. What pytest and we do between two tests (capturing, recording a case) comes
to its end first.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest

from context_research import signals
from context_research.plugin import ENDED_BY


def exit_status(number: int) -> int:
    """Of a session that a signal ended: pytest's for Ctrl-C, else the shell's."""
    return int(pytest.ExitCode.INTERRUPTED) if number == signal.SIGINT else 128 + number


class OrderlyEnd:
    """A pytest plugin, on the controller. `record` writes down that the run ends now: status, after a second signal."""

    def __init__(self, config: pytest.Config, record: Callable[[signals.Interrupted, int], None]) -> None:
        self._config, self._record = config, record
        taken = contextlib.ExitStack()
        self._ending = taken.enter_context(signals.taken(self._at_once, interruptible=True))
        config.add_cleanup(taken.close)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        if self._config.getoption("dist", "no") == "no":  # an xdist controller waits in this loop, and runs no test
            self._ending.close()
        return (yield)

    # Innermost: what pytest does around a test, such as capturing, is not interrupted.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        with signals.interruptible():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        with signals.interruptible():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        with signals.interruptible():
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._ending.close()
        if isinstance(excinfo.value, signals.Interrupted):
            self._config.stash[ENDED_BY] = exit_status(excinfo.value.number)
            _leave_closed_terminal()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """All tests have run, or the end was asked for: what is left to do is done whole."""
        self._ending.close()
        session.exitstatus = self._config.stash.get(ENDED_BY, session.exitstatus)
        return (yield)

    def _at_once(self, number: int) -> None:
        """A second signal: nobody wants to wait for the orderly end."""
        os.write(2, b"\ncontext-research: ended at once by a second signal\n")
        try:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._record(signals.Interrupted(number), exit_status(number))
        finally:
            os._exit(exit_status(number))


def _leave_closed_terminal() -> None:
    """Writing to it is an error, and pytest's last words would be one. What capturing has saved of it counts too."""
    with Path(os.devnull).open("r+b", buffering=0) as nowhere:
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # of the listing itself
                number = int(link.name)
                if os.readlink(link).startswith(("/dev/pts/", "/dev/tty")) and not os.isatty(number):  # noqa: PTH115
                    os.dup2(nowhere.fileno(), number)
