"""Pins what rows.py needs of pytest-benchmark's internals."""

import json
from types import SimpleNamespace

import pytest

from context_research.plugin.benchmark_rows import LABELS, RowSink, disabled, make_rows
from context_research.records.case import FinishedCase
from tests.support import made

SAMPLES = [0.5, 0.25, 0.75]


def finished(**values):
    known = {
        "nodeid": "benchmarks/e0/test_e0.py::test_e0[p64-c1]",
        "experiment": "e0",
        "backend": "vllm",
        "device": "cpu",
        "mode": "disaggregated",
        "topology": "1P1D ×2",
        "model_label": "tiny seeded:1a2b3c4d",
        "work": "tiny seeded:1a2b3c4d float32, 16 out",
        "run_id": "r1",
        "case": made.case_record(),
        "samples": {"ttft": SAMPLES, "tpot": [0.125], "handoff": []},
        "windows": [],
        "requests": [],
        "engines": [],
    }
    return FinishedCase(**(known | values))


def test_a_row_is_a_benchmark_with_all_its_samples():
    from pytest_benchmark.stats import Metadata

    row = make_rows(finished())[0]
    assert isinstance(row, Metadata)
    assert bool(row)
    assert not row.has_error
    saved = json.loads(json.dumps(row.as_dict(include_data=True)))
    assert saved["stats"]["data"] == SAMPLES
    assert (saved["stats"]["rounds"], saved["stats"]["iterations"]) == (3, 1)
    assert (saved["stats"]["mean"], saved["stats"]["median"], saved["stats"]["max"]) == (0.5, 0.5, 0.75)


def test_a_row_is_named_after_metric_and_case():
    saved = make_rows(finished())[0].as_dict()
    assert saved["name"] == "ttft p64-c1"
    assert (
        saved["fullname"]
        == "benchmarks/e0/test_e0.py::test_e0[p64-c1]::ttft [vllm cpu, tiny seeded:1a2b3c4d float32, 16 out]"
    )
    assert saved["group"] == "e0 ttft [vllm cpu, tiny seeded:1a2b3c4d float32, 16 out]"
    assert (saved["param"], saved["params"]) == ("p64-c1", {"prompt_tokens": 64, "concurrency": 1})
    assert saved["extra_info"] == {
        "serving": "disaggregated",
        "topology": "1P1D ×2",
        "model": "tiny seeded:1a2b3c4d",
        "run_id": "r1",
    }


def test_a_metric_without_samples_gives_no_row():
    assert [row.name for row in make_rows(finished())] == ["ttft p64-c1", "tpot p64-c1"]


def names(**values):
    return [(row.fullname, row.group) for row in make_rows(finished(**values))]


def test_the_modes_meet_in_a_comparison():
    assert names(mode="aggregated", run_id="r2") == names()


@pytest.mark.parametrize("other", [{"backend": "simulated"}, {"device": "cuda"}, {"work": "another"}], ids=str)
def test_figures_of_different_kinds_never_meet(other):
    assert not set(names(**other)) & set(names())
    for fullname, group in names(**other):
        for value in other.values():
            assert value in fullname
            assert value in group


def test_pytest_benchmarks_session_has_what_the_sink_uses(pytestconfig):
    session = pytestconfig.pluginmanager.get_plugin("pytest-benchmark")
    assert isinstance(session.benchmarks, list)
    for name in ("save", "autosave", "json"):
        assert not getattr(session, name)


class Config:
    """A pytest config with a session of pytest-benchmark's, or without."""

    def __init__(self, session, **options):
        self.pluginmanager = SimpleNamespace(get_plugin=lambda _: session)
        self._options = options

    def getoption(self, name, default):
        return self._options.get(name, default)


def session(**values):
    return SimpleNamespace(**({"save": None, "autosave": False, "json": None, "benchmarks": []} | values))


@pytest.mark.parametrize("mode", LABELS)
def test_rows_are_saved_under_the_modes_short_name(mode):
    ours = session()
    RowSink(Config(ours)).add(finished(mode=mode))
    assert ours.save == LABELS[mode]
    assert len(ours.save) + len("0001_") <= 12, "tables cut the names of saved runs"
    assert [row.name for row in ours.benchmarks] == ["ttft p64-c1", "tpot p64-c1"]


@pytest.mark.parametrize(
    "asked", [{"save": "mine"}, {"autosave": True}, {"json": "out.json"}], ids=lambda a: next(iter(a))
)
def test_what_the_user_asked_to_save_is_left(asked):
    ours = session(**asked)
    RowSink(Config(ours)).add(finished())
    assert (ours.save, ours.autosave, ours.json) == tuple(session(**asked).__dict__.values())[:3]
    assert len(ours.benchmarks) == 2


@pytest.mark.parametrize(
    ("options", "off"),
    [
        pytest.param({}, False, id="default"),
        pytest.param({"benchmark_disable": True}, True, id="disable"),
        pytest.param({"benchmark_disable": True, "benchmark_enable": True}, False, id="both"),
    ],
)
def test_disabled_keeps_no_rows(options, off):
    ours = session()
    config = Config(ours, **options)
    assert disabled(config) is off
    RowSink(config).add(finished())
    assert bool(ours.benchmarks) is not off
    assert bool(ours.save) is not off


def test_without_pytest_benchmark_rows_go_nowhere():
    RowSink(Config(None)).add(finished())
