"""How pytest-benchmark's tables show our rows, under pytest and under the `pytest-benchmark` command alike."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

Row = Mapping[str, Any]
"""A line of a table, as pytest-benchmark has it: what it writes to its files, the statistics among the other keys."""
_ASK = frozenset(
    f"--benchmark-{name}"
    for name in (
        *("columns", "sort", "group-by", "name", "time-unit", "verbose"),
        *("compare", "compare-fail", "histogram"),
    )
)
"""Whoever gives one of these wants tables."""
_COLUMNS = ("mean", "median", "stddev", "rounds")
"""Unless others are asked for: the best and the worst of a latency's samples say little."""


def settle(config: pytest.Config) -> None:
    """Before tables are printed: without ours, which the report has in full, unless an option asks for tables."""
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    if session is None or not session.groups:
        return
    words = _given(config)
    if not words & _ASK:
        kept = ((group, [row for row in rows if not is_ours(row)]) for group, rows in session.groups)
        session.groups = [(group, rows) for group, rows in kept if rows]
    elif all(is_ours(row) for _, rows in session.groups for row in rows):
        session.columns = session.columns if "--benchmark-columns" in words else list(_COLUMNS)
        session.sort = session.sort if "--benchmark-sort" in words else "name"


def _given(config: pytest.Config) -> frozenset[str]:
    """The options' names, wherever they are given: on the command line, in PYTEST_ADDOPTS or in an ini's addopts."""
    words = [*map(str, config.invocation_params.args), *config.getini("addopts")]
    words += shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    return frozenset(word.partition("=")[0] for word in words)


def is_ours(row: Row) -> bool:
    return {"serving", "run_id"} <= set(row.get("extra_info") or ())


def scale_of_ours(unit: str, benchmarks: Sequence[Row]) -> tuple[str, float] | None:
    """Milliseconds throughout, so that rows of one metric compare at a glance; None if no row is ours."""
    if not any(map(is_ours, benchmarks)):
        return None
    return ("m", 1e3) if unit == "seconds" else ("", 1.0)


def pytest_benchmark_scale_unit(
    config: Any, unit: str, benchmarks: Sequence[Row], best: Row, worst: Row, sort: str
) -> tuple[str, float]:
    """For the `pytest-benchmark` command, which asks a conftest.py alone, and takes no None."""
    from pytest_benchmark import plugin

    ours = scale_of_ours(unit, benchmarks)
    if ours is not None:
        return ours
    own: tuple[str, float] = plugin.pytest_benchmark_scale_unit(config, unit, benchmarks, best, worst, sort)
    return own
