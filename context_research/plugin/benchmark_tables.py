"""How pytest-benchmark's tables show our rows, under pytest and under the `pytest-benchmark` command alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A line of a table, as pytest-benchmark has it: what it writes to its files, the statistics among the other keys."""


def scale_of_ours(unit: str, benchmarks: Sequence[Row]) -> tuple[str, float] | None:
    """Milliseconds throughout, so that rows of one metric compare at a glance; None if no row is ours."""
    if not any({"serving", "run_id"} <= set(row.get("extra_info") or ()) for row in benchmarks):
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
