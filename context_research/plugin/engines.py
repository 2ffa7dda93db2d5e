"""The engines of one pytest session: started when a case first needs them, replaced where one needs others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of
from context_research.engines.base import Engine
from context_research.hardware.devices import lasting_names
from context_research.hardware.locks import Hold
from context_research.hardware.placement import Placement
from context_research.measure.checks import evidence
from context_research.models import hub
from context_research.models.model import Model
from context_research.plugin.progress import ProgressLine
from context_research.plugin.session import Session
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.case import engine_settings


class SessionEngines:
    """One topology at a time: cases whose axes change what an engine is started with get engines of their own."""

    def __init__(self, config: pytest.Config, session: Session) -> None:
        self._config, self._session, self._line = config, session, ProgressLine(config)
        self._topology: Topology | None = None
        self._started_with = ""
        self._backend: Backend = session.backend
        self._hold: Hold | None = None
        config.pluginmanager.register(self, "context-research-engines")
        # Fixtures are not torn down if another plugin raises at the end of an interrupted session; cleanups run.
        config.add_cleanup(self.close)

    def of(self, settings: Settings) -> Topology:
        """Running engines of these settings; restarted where one died. Raises EngineFailure, UsageProblem."""
        wanted = engine_settings(settings)
        if self._topology is not None and wanted == self._started_with:
            if why := self._topology.revive():
                self._line.note(f"restarted the engines: {why}")
            return self._topology
        first = self._topology is None
        self._stop()
        self._line.note(f"starting {settings.serving.mode} serving, log in {self._session.logs}")
        if first:  # engines on a GPU would be in the way of what is measured here
            self._hold = self._hold or self._held(settings)
            session = self._session
            session.standing = evidence.standing(session.model, session.cases, session.files, session.checks)
        self._topology, self._started_with = self._build(settings), wanted
        self._topology.start()
        return self._topology

    @pytest.hookimpl(trylast=True)
    def pytest_context_research_make_engine(self, model: Model, placement: Placement, log: Path) -> Engine:
        """The backend's own, unless another plugin made one."""
        return self._backend.make_engine(model, placement, log)

    def close(self) -> None:
        """Close the engines, and let other runs have their devices."""
        self._stop()
        if self._hold is not None:
            self._hold.release()
        self._hold = None

    def _stop(self) -> None:
        if self._topology is not None:
            self._topology.close()
        self._topology = None

    def _held(self, settings: Settings) -> Hold | None:
        backend = self._session.backend
        if settings.machine.share_devices or not backend.needs_own_devices:
            return None
        return Hold(lasting_names(settings.device, backend.devices), f"run {self._session.files.run_id}")

    def _build(self, settings: Settings) -> Topology:
        backend, model = backend_of(settings), self._session.model_of(settings)
        if self._session.worker and backend.needs_own_devices and settings.device == "cpu":
            # What this worker does beside its engines, their start too, would be on the cores of another one.
            os.sched_setaffinity(0, backend.devices)
        self._backend, model = backend, hub.download(model) if backend.needs_weights else model
        hook: Any = self._config.hook

        def make_engine(placement: Placement) -> Engine:
            log = build.log_of(placement, self._session.logs)
            made: Engine = hook.pytest_context_research_make_engine(
                settings=settings, model=model, placement=placement, log=log
            )
            return made

        return build.build(backend, make_engine)
