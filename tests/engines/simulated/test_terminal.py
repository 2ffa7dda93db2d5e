"""After a run the terminal has a few lines; pytest-benchmark's tables of it come back on demand, others' stay."""

import pytest

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
ONE = (
    *("--seed=0", "--device-profile=cpu-2core", "--prompt-lengths=64", "--concurrency=1", "--output-tokens=4"),
    *("--requests=9", "--repeats=1", "--warmup-requests=0", "--run-id=mine"),
)


def test_a_run_ends_with_few_lines_that_say_what_came_out_and_where_it_is(suite):
    result = suite.inside(*ONE)
    told = result.stdout.str().partition(" context-research =")[2].splitlines()[1:]
    ours = told[: next(number for number, line in enumerate(told) if line.startswith("==="))]
    assert len(ours) == 6
    result.stdout.fnmatch_lines(
        [
            "e0, *, SIMULATED cpu-2core *, aggregated, seed 0: 1 of 1 case passed",
            "figures: TTFT p50 * ms; TPOT p50 * ms",
            "checks: * pass, * n/a",
            "run     outputs/runs/mine",
            "report  outputs/reports/mine.md",
            "compare context-research verdict OTHER_RUN mine",
        ],
        consecutive=True,
    )
    assert "Name (time in ms)" not in result.stdout.str()
    assert "Legend:" not in result.stdout.str()


def test_an_option_about_tables_brings_them_back(suite):
    shown = suite.inside(*ONE, "--benchmark-columns=median").stdout
    shown.fnmatch_lines(["Name (time in ms) *Median*"])


def test_other_benchmarks_of_the_session_keep_their_table(suite):
    other = "def test_other(benchmark): benchmark.pedantic(lambda: 1, rounds=3, iterations=2)\n"
    (suite.path / "benchmarks" / "e0" / "test_other.py").write_text(other)
    shown = suite.inside(*ONE).stdout
    shown.fnmatch_lines(["*benchmark: 1 tests*", "test_other *"])
    assert "ttft p64-c1" not in shown.str()
