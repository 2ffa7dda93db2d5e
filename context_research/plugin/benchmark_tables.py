"""How pytest-benchmark's tables show our rows, under pytest and under the `pytest-benchmark` command alike."""

from __future__ import annotations

from typing import Any


def pytest_benchmark_scale_unit(
    config: Any, unit: str, benchmarks: Any, best: Any, worst: Any, sort: Any
) -> tuple[str, float]:
    """Milliseconds throughout, so that rows of one metric compare at a glance."""
    del config, benchmarks, best, worst, sort
    return ("m", 1e3) if unit == "seconds" else ("", 1.0)
