"""A pytest plugin that strikes its own session: one fault, in one phase, named by the environment.

Struck from within, as only there a phase is hit and not nearly hit. In the session's second case, so that one is
finished, but where the phase is another one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

FAULT, PHASE, FOLDER = "FAULTS_FAULT", "FAULTS_PHASE", "FAULTS_FOLDER"
"""Variables: what strikes, when, and where is written what happened."""
_AGAIN_S = 1.2
_MS_RDONLY = 1


def fault() -> None:
    """The fault, once."""
    name, struck = os.environ[FAULT], Path(os.environ[FOLDER], "struck")
    if struck.exists():
        return
    struck.touch()
    _FAULTS[name]()


def _send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _twice() -> None:
    def again() -> None:
        time.sleep(_AGAIN_S)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=again, daemon=True).start()
    os.kill(os.getpid(), signal.SIGINT)


def _group() -> None:
    """A terminal's Ctrl-C: every process of the session gets it."""
    os.killpg(0, signal.SIGINT)


def _core(name: str) -> Callable[[], None]:
    def kill() -> None:
        """The engine's own process, by the order in which engines started."""
        psutil.Process().children()[0 if name == "prefill" else -1].kill()

    return kill


def _fill(folder: Path) -> None:
    try:
        with (folder / "fill").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _read_only() -> None:
    """Another disk, read-only and empty, in the place of the outputs: nothing more can be written."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"outputs", b"tmpfs", _MS_RDONLY, None):
        raise OSError(ctypes.get_errno(), "mount")


_FAULTS: dict[str, Callable[[], None]] = {
    "Ctrl-C": _send(signal.SIGINT),
    "Ctrl-C to all": _group,
    "Ctrl-C twice": _twice,
    "SIGTERM": _send(signal.SIGTERM),
    "SIGHUP": _send(signal.SIGHUP),
    "SIGKILL": _send(signal.SIGKILL),
    "prefill killed": _core("prefill"),
    "decode killed": _core("decode"),
    "disk full": lambda: _fill(Path("outputs")),
    "disk gone": _read_only,
    "/dev/shm full": lambda: _fill(Path("/dev/shm")),
    "none": lambda: None,
}
FAULTS = tuple(_FAULTS)
PHASES = (
    "configure",
    "collection",
    "engine start",
    "warm-up",
    "measured",
    "handoff",
    "recording",
    "between cases",
    "engines' end",
    "report",
)


class _Strikes:
    """Hooks of each phase. `cases`: tests begun."""

    def __init__(self, phase: str) -> None:
        self._phase, self._cases, self._finished = phase, 0, Path(os.environ[FOLDER], "finished")
        _watch_engines(self)

    def at(self, phase: str, second: bool = True) -> None:
        if phase == self._phase and (self._cases >= 2 or not second):
            fault()

    def pytest_collection_modifyitems(self) -> None:
        self.at("collection", second=False)

    def pytest_runtest_logstart(self) -> None:
        self._cases += 1

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, object, object]:
        result = yield
        if call.when == "call" and call.excinfo is None:
            self.at("recording")
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        result = yield
        gone = os.environ[FAULT] == "disk gone" and Path(os.environ[FOLDER], "struck").exists()
        if hasattr(report, "context_research_case") and not gone:
            with self._finished.open("a") as stream:
                stream.write("case\n")
        return result

    def pytest_runtest_logfinish(self) -> None:
        self.at("between cases", second=False)

    def pytest_context_research_report_sections(self) -> Iterator[object]:
        self.at("report", second=False)
        return iter(())


def pytest_configure(config: pytest.Config) -> None:
    phase = os.environ[PHASE]
    config.pluginmanager.register(_Strikes(phase), "strikes-now")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    """After this project's own: before, there is nothing of it to strike."""
    if os.environ[PHASE] == "configure":
        fault()


def _watch_engines(strikes: _Strikes) -> None:
    """Has topologies tell when engines start and end, and which request is on its way where."""
    from context_research.serving.disaggregated import Disaggregated
    from context_research.serving.topology import Topology

    start, close, serve = Topology.start, Topology.close, Topology.serve

    def starts(self: Topology) -> None:
        if os.environ[PHASE] == "engine start":
            threading.Thread(target=_amid_start, args=(strikes,), daemon=True).start()
        start(self)

    def closes(self: Topology) -> None:
        strikes.at("engines' end")
        close(self)

    async def serves(self: Topology, request: Any, *arguments: Any) -> Any:
        strikes.at({"warmup": "warm-up"}.get(request.phase, "measured"))
        return await serve(self, request, *arguments)

    Topology.start, Topology.close = starts, closes  # type: ignore[method-assign]
    Topology.serve = serves  # type: ignore[assignment,method-assign]
    engine = Disaggregated._engine

    def chosen(self: Disaggregated, role: str) -> Any:
        if role == "decode":
            strikes.at("handoff")
        return engine(self, role)

    Disaggregated._engine = chosen  # type: ignore[assignment,method-assign]


def _amid_start(strikes: _Strikes) -> None:
    """Once the engine's process is there; a simulated engine has none, and is soon up."""
    engines = 2 if os.environ[FAULT].startswith("decode") else 1
    end = time.monotonic() + (60 if os.environ.get("FAULTS_REAL") else 0)
    while time.monotonic() < end and len(psutil.Process().children()) < engines:
        time.sleep(0.01)
    strikes.at("engine start", second=False)
