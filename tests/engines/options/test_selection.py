"""Markers, collection and idle options."""

import subprocess
import sys

import pytest

from tests.support.suite import ROOT, SMALL


def test_collecting_imports_neither_torch_nor_vllm():
    program = (
        "import sys, pytest; code = pytest.main(['--collect-only', '-q', 'benchmarks/e0']);"
        "print(code, sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'vllm', 'transformers'}))"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "test_e0[p256-c1]" in told
    assert told.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--fixtures", "--help"])
def test_idle_options_need_no_seed_start_no_engine_and_write_nothing(suite, option):
    assert suite.inside(option).ret == 0
    assert not (suite.path / "outputs").exists()


def test_cases_carry_the_marker_of_their_device(suite):
    suite.inside("--collect-only", "-q", "-m", "cpu", *SMALL).stdout.fnmatch_lines(["*2 tests collected*"])


def test_an_empty_selection_says_why(suite):
    result = suite.inside("--seed=0", "-m", "gpu", *SMALL)
    result.stdout.fnmatch_lines(
        ["*none of the 2 cases is selected by -m 'gpu'; here they are marked cpu, as the device is cpu (*"]
    )
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert not list((suite.path / "outputs").rglob("*.json"))


def test_cases_can_be_chosen_by_prompt_length_and_load(suite):
    shown = suite.inside("--collect-only", "-q", "--prompt-lengths=32,64", "--concurrency=1,3").stdout.str()
    assert [name for name in ("p32-c1", "p32-c3", "p64-c1", "p64-c3") if f"[{name}]" in shown] == [
        "p32-c1",
        "p32-c3",
        "p64-c1",
        "p64-c3",
    ]


def test_other_tests_of_a_user_are_left_alone(pytester):
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    assert "context-research:" not in result.stdout.str()
    assert not (pytester.path / "outputs").exists()


def test_another_projects_benchmarks_are_left_alone(pytester):
    folder = pytester.mkdir("benchmarks").joinpath("sort")
    folder.mkdir()
    (folder / "test_sort.py").write_text("def test_sort(benchmark): benchmark(sorted, [2, 1])\n")
    for options in ([], ["-n1"]):
        result = pytester.runpytest_inprocess("benchmarks", *options)
        result.assert_outcomes(passed=1)
        assert "context-research:" not in result.stdout.str()
    assert not (pytester.path / "outputs").exists()


NINE = "import pytest\n\n@pytest.mark.experiment('e9')\ndef test_nine(): pass\n"


@pytest.mark.parametrize("known", [True, False], ids=["by its folder", "by its marker"])
def test_two_experiments_in_one_session_are_refused(suite, known):
    folder = suite.path / ("benchmarks" if known else "elsewhere") / "e9"
    configs = suite.path / "configs" / "experiments"
    folder.mkdir(parents=True)
    configs.mkdir(parents=True)
    (folder / "test_e9.py").write_text(NINE)
    (configs / "e9.yaml").write_text("experiment: e9\n")
    result = suite.inside(str(folder), "--seed=0")
    result.stderr.fnmatch_lines(["ERROR: one experiment a session: run e0 and e9 one by one"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


TWICE = """
import pytest
@pytest.mark.experiment("e0")
@pytest.mark.parametrize("shade", ["red", "blue"])
def test_e0(serving_run, case, shade): pass
"""


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["serial", "xdist"])
def test_a_case_that_two_tests_would_measure_is_refused(suite, workers):
    (suite.path / "benchmarks" / "e0" / "test_e0.py").write_text(TWICE)
    result = suite.inside("--seed=0", *SMALL, *workers)
    told = "two tests measure the case p64-c1: what they differ in has to be one of the axes of its YAML*"
    (result.stdout if workers else result.stderr).fnmatch_lines([told if workers else f"ERROR: {told}"])
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if workers else pytest.ExitCode.USAGE_ERROR)
    assert not list((suite.path / ".benchmarks").rglob("*.json"))


def test_workers_that_find_an_experiment_by_themselves_do_not_run_it(suite):
    """Devices are lent before anything is collected."""
    elsewhere = suite.path / "elsewhere"
    (suite.path / "benchmarks" / "e0").rename(elsewhere)
    (suite.path / "benchmarks").rmdir()
    result = suite.inside("--seed=0", *SMALL, "-n1", folder="elsewhere")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["an xdist worker has no devices for this: *so name its folder and its --experiment-config *"]
    )
    assert not (suite.path / "outputs").exists()
