"""pytest-benchmark's own options behave as they do for any benchmark."""

import json

import pytest

from tests.support.artifacts import metadata, requests, rows_saved
from tests.support.suite import SMALL


def saved(suite):
    return [path.name for path in rows_saved(suite.path)]


@pytest.fixture
def run(suite, aggregated):
    return lambda *options: suite.inside("--seed=0", *SMALL, *options, lend=[aggregated])


def test_save_names_the_file(run, suite):
    run("--benchmark-save=mine")
    assert saved(suite) == ["0001_mine.json"]


def test_autosave_names_it_by_commit_and_time(run, suite):
    run("--benchmark-autosave")
    (name,) = saved(suite)
    assert name.startswith("0001_")
    assert "agg" not in name


def test_json_holds_every_sample_and_saves_nothing_else(run, suite):
    run("--benchmark-json=out.json")
    rows = json.loads((suite.path / "out.json").read_text())["benchmarks"]
    counts = {row["name"]: len(row["stats"]["data"]) for row in rows}
    assert counts["ttft p64-c2"] == 2
    assert counts["itl p64-c2"] == 2 * (4 - 1)
    assert counts["output_token_time p64-c2"] == 1
    assert saved(suite) == []


def test_disable_runs_each_case_once_and_keeps_no_rows(run, suite):
    run("--benchmark-disable", "--repeats=3").assert_outcomes(passed=2)
    assert {line["repeat"] for line in requests(suite.run)} == {-1, 0}
    assert saved(suite) == []


def test_skip_starts_nothing_and_leaves_nothing(run, suite):
    run("--benchmark-skip").assert_outcomes(skipped=2)
    assert saved(suite) == []
    assert not (suite.path / "outputs").exists()


def test_only_leaves_other_tests_out(run, suite):
    (suite.path / "benchmarks" / "e0" / "test_other.py").write_text("def test_other(): assert False\n")
    run("--benchmark-only").assert_outcomes(passed=2, skipped=1)


def test_compare_shows_the_earlier_run_beside_this_one(run):
    run()
    shown = run("--benchmark-compare").stdout
    shown.fnmatch_lines_random(["ttft p64-c1 (NOW)*", "ttft p64-c1 (0001_agg)*"])


def test_compare_fail_ends_with_an_error_on_a_regression(run, suite):
    """Against a saved run made faster by hand: a regression that is one on any machine."""
    run()
    (path,) = rows_saved(suite.path)
    saved_run = json.loads(path.read_text())
    for row in saved_run["benchmarks"]:
        row["stats"]["mean"] /= 100
    path.write_text(json.dumps(saved_run))
    result = run("--benchmark-compare", "--benchmark-compare-fail=mean:50%")
    assert result.ret != 0
    assert "Performance has regressed" in result.stdout.str() + result.stderr.str()
    assert metadata(suite.runs[-1])["status"] == "completed", "the run is whole, whatever it is compared with"
