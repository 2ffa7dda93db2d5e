"""pytest-benchmark's tables: ours on demand, in milliseconds; others' as they are."""

from types import SimpleNamespace

import pytest
from _pytest.config import Config

from context_research.plugin.benchmark_tables import pytest_benchmark_scale_unit, scale_of_ours, settle

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


def settled(*given, rows=(OURS, OTHER), addopts=(), columns=("min", "max")):
    """pytest-benchmark's session as it will print tables."""
    session = SimpleNamespace(groups=[("ours", [rows[0]]), ("both", list(rows))], columns=list(columns), sort="min")
    config = SimpleNamespace(
        pluginmanager=SimpleNamespace(get_plugin={"pytest-benchmark": session}.get),
        invocation_params=SimpleNamespace(args=given),
        getini={"addopts": list(addopts)}.__getitem__,
    )
    settle(config)
    return session


@pytest.fixture(autouse=True)
def no_addopts(monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def test_ours_are_left_out_unless_asked_for_and_others_keep_theirs():
    assert settled("benchmarks/e0", "--benchmark-save=mine", "--benchmark-json=x").groups == [("both", [OTHER])]
    assert settled(rows=(OURS, OURS)).groups == []
    assert settled(rows=(OTHER, OTHER)).groups == [("ours", [OTHER]), ("both", [OTHER, OTHER])]


@pytest.mark.parametrize(
    "option",
    [
        *("--benchmark-columns=mean", "--benchmark-sort=mean", "--benchmark-group-by=name", "--benchmark-verbose"),
        *("--benchmark-compare", "--benchmark-compare-fail=mean:5%", "--benchmark-histogram"),
    ],
)
def test_an_option_about_tables_brings_them_back_wherever_it_is_given(monkeypatch, option):
    every = [("ours", [OURS]), ("both", [OURS, OTHER])]
    assert settled(option).groups == every
    assert settled(addopts=["-ra", option]).groups == every
    monkeypatch.setenv("PYTEST_ADDOPTS", f"-q {option}")
    assert settled().groups == every


def test_columns_of_ours_are_few_unless_they_are_named():
    assert settled("--benchmark-compare", rows=(OURS, OURS)).columns == ["mean", "median", "stddev", "rounds"]
    assert settled("--benchmark-compare").columns == ["min", "max"], "others' tables are in it"
    named = settled("--benchmark-columns", "mean", rows=(OURS, OURS), columns=["mean"])
    assert (named.columns, named.sort) == (["mean"], "name")
    assert settled("--benchmark-sort=mean", rows=(OURS, OURS)).sort == "min", "as pytest-benchmark has read it"
