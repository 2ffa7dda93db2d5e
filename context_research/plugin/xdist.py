"""Lends each xdist worker a group of devices for its engines; a dead worker's group goes to its successor."""

from __future__ import annotations

from typing import Any

import pytest

from context_research.errors import UsageProblem
from context_research.hardware.placement import groups
from context_research.plugin.selection import OUTPUTS, RUN_ID, SHARE, TOLD
from context_research.plugin.session import Session

Share = dict[str, list[int] | int]
"""A worker's settings, by their dotted keys: its devices, and on a CPU its part of the KV memory."""


class Lender:
    """A plugin of the controller. Raises UsageProblem where workers would have to share devices."""

    def __init__(self, config: pytest.Config, session: Session) -> None:
        self._session = session
        workers = len(config.getoption("tx", None) or [])
        self.shares = _shares(config, session) if session.backend.needs_own_devices else [{}] * workers
        """One for each worker."""
        self._free = list(self.shares)
        self._lent: dict[str, Share] = {}
        if config.getoption("dist", "no") == "loadgroup":
            raise UsageProblem("--dist=loadgroup does not group on pytest 9.2 (pytest-xdist #1386): use --dist=load")
        if workers > len(self._free):
            raise UsageProblem(
                f"{workers} xdist workers need {workers} groups of devices, and there is {len(self._free)}: "
                "give --device-groups='0;1' or fewer workers (workers that share devices disturb each other's figures)"
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self._lent[node.gateway.id] = self._free.pop(0)
        one = self._session.experiment
        node.workerinput[TOLD] = (one.name, str(one.folder), str(one.configs))
        node.workerinput[SHARE] = self._lent[node.gateway.id]
        node.workerinput[RUN_ID] = self._session.files.run_id
        node.workerinput[OUTPUTS] = str(self._session.files.outputs)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        del error
        if (share := self._lent.pop(node.gateway.id, None)) is not None:  # a simulated worker's is empty
            self._free.append(share)


def _shares(config: pytest.Config, session: Session) -> list[Share]:
    lent, chosen = _groups(config, session), session.resolved.settings
    memory = chosen.engine.kv_cache_memory_bytes
    if chosen.device == "cuda" or memory is None:
        return [{"devices": group} for group in lent]
    return [{"devices": group, "engine.kv_cache_memory_bytes": memory // len(lent)} for group in lent]


def _groups(config: pytest.Config, session: Session) -> list[list[int]]:
    own = session.backend.devices
    text: str | None = config.getoption("context_research_device_groups")
    return [list(own)] if text is None else groups(text, own, "the run's (--devices)")
