"""The `pytest-benchmark` command reads hooks from this file alone, never from plugins. Imports no vLLM, no torch."""

from context_research.plugin.benchmark_tables import pytest_benchmark_scale_unit as pytest_benchmark_scale_unit
