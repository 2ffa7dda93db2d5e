"""Units of pytest-benchmark's tables: milliseconds for our rows, its own choice for others'."""

import pytest
from _pytest.config import Config

from context_research.plugin.benchmark_tables import pytest_benchmark_scale_unit, scale_of_ours

OURS = {"min": 3e-7, "ops": 3e6, "extra_info": {"serving": "aggregated", "model": "tiny", "run_id": "r1"}}
OTHER = {"min": 3e-7, "ops": 3e6, "extra_info": {}}


def command(unit, rows, time_unit=None):
    """As the `pytest-benchmark` command asks, of a conftest.py."""
    config = Config.fromdictargs({"benchmark_time_unit": time_unit}, [])
    return pytest_benchmark_scale_unit(config, unit, rows, best=rows[0], worst=rows[0], sort="min")


def test_ours_are_in_milliseconds_whatever_their_size():
    assert scale_of_ours("seconds", [OURS]) == command("seconds", [OURS]) == ("m", 1e3)
    assert scale_of_ours("operations", [OURS]) == command("operations", [OURS]) == ("", 1.0)
    assert scale_of_ours("seconds", [OTHER, OURS]) == ("m", 1e3)


def test_others_are_pytest_benchmarks_to_scale():
    assert scale_of_ours("seconds", [OTHER]) is None
    assert command("seconds", [OTHER]) == ("n", pytest.approx(1e9))
    assert command("seconds", [OTHER], "s") == ("", 1.0)
    assert command("operations", [OTHER]) == ("M", pytest.approx(1e-6))
