"""A case's samples as pytest-benchmark rows. Makes and saves rows: the module that touches its session and stats.

`extra_info` shows in no table and no comparison, so each metric of each case is a row of its own. Comparisons match
rows by full name: it holds backend, device, model and output length, so that figures of different work never meet, and
not the serving mode, so that `pytest-benchmark compare --between=median` shows the modes side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from context_research.errors import UsageProblem
from context_research.records.case import FinishedCase
from context_research.records.summary import CapacityRecord

LABELS = {"aggregated": "agg", "disaggregated": "disagg"}
"""Names of saved runs: pytest-benchmark's tables cut them at 12 characters."""


def make_rows(finished: FinishedCase) -> list[Any]:
    """Rows (pytest_benchmark.stats.Metadata) of one finished case, for every metric in seconds that has samples."""
    return [_row(finished, metric, samples) for metric, samples in finished.samples.items() if samples]


def capacity_row(of: FinishedCase, capacity: CapacityRecord) -> Any:
    """A run's capacity as a row of its own, in seconds per request and device: less is better, as in every other row.

    `of` is one of the cases that it comes from: where it ran, and what was computed.
    """
    kind = _kind(of).replace(f" {of.case.axes.get('rate')}/s", "")  # of all the rates, not of that case's
    where = f"{of.nodeid.partition('[')[0]}[{capacity.name}]::capacity {kind}"
    return _made(of, f"capacity {capacity.name}", where, "capacity", kind, {}, [1 / capacity.rate])


def _row(finished: FinishedCase, metric: str, samples: Sequence[float]) -> Any:
    kind, case = _kind(finished), finished.case
    fullname = f"{finished.nodeid}::{metric} {kind}"
    return _made(finished, f"{metric} {case.name}", fullname, metric, kind, case.axes, samples)


def _kind(finished: FinishedCase) -> str:
    return f"[{finished.backend} {finished.device}, {finished.work}]"


def _made(
    finished: FinishedCase,
    name: str,
    fullname: str,
    metric: str,
    kind: str,
    axes: Mapping[str, Any],
    samples: Sequence[float],
) -> Any:
    from pytest_benchmark.stats import Metadata

    described = SimpleNamespace(
        name=name,
        fullname=fullname,
        group=f"{finished.experiment} {metric} {kind}",
        param=name.partition(" ")[2],
        params=dict(axes),
        extra_info={
            "serving": finished.mode,
            "topology": finished.topology,
            "model": finished.model_label,
            "run_id": finished.run_id,
        },
        cprofile_stats=None,
        has_error=False,
    )
    row = Metadata(described, iterations=1, options={})
    for sample in samples:
        row.update(sample)
    return row


class RowSink:
    """Where the rows go: the controller's pytest-benchmark session, in serial and xdist runs alike."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._withdrawn = False

    @property
    def _session(self) -> Any:
        return self._config.pluginmanager.get_plugin("pytest-benchmark")

    def add(self, finished: FinishedCase) -> None:
        """Add a finished case's rows, and see to it that they are saved: unasked, under the mode's short name."""
        session = self._session
        if session is None or self._withdrawn or disabled(self._config):
            return
        # Set here and not by an option: only a session that measured something has something to save.
        if not (session.save or session.autosave or session.json):
            session.save = LABELS[finished.mode]
        session.benchmarks.extend(make_rows(finished))

    def add_capacity(self, of: FinishedCase, capacity: CapacityRecord) -> None:
        """Add a run's capacity, unless it is a bound, which would pass for a figure in a table."""
        session = self._session
        if session is None or self._withdrawn or disabled(self._config) or capacity.bound != "exact":
            return
        session.benchmarks.append(capacity_row(of, capacity))

    def withdraw(self) -> None:
        """Keep every row of this run out of pytest-benchmark's tables and storage: the run does not count."""
        self._withdrawn = True
        if self._session is not None:
            self._session.benchmarks.clear()
            self._session.save = self._session.autosave = False


def disabled(config: pytest.Config) -> bool:
    """True where the user asked for --benchmark-disable: run everything once, keep no rows.

    xdist also makes pytest-benchmark disable itself, as workers disturb each other's clocks. Ours have devices of their
    own, and their rows count.
    """
    return bool(config.getoption("benchmark_disable", False) and not config.getoption("benchmark_enable", False))


def check_file(config: pytest.Config) -> None:
    """Raises UsageProblem where --benchmark-json can't be written: pytest-benchmark would find out after the run."""
    path: Path | None = config.getoption("benchmark_json", None)
    if path is None:
        return
    if not path.parent.is_dir():
        raise UsageProblem(f"--benchmark-json={path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageProblem(f"--benchmark-json={path}: that file can't be written")
