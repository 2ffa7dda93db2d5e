"""The shell scripts: wrong input in one line. Set-up, runs and reports themselves are what CI and users do anyway."""

import os
import subprocess

import pytest

from tests.support.suite import ROOT


def script(name, *arguments, **variables):
    return subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "name", ["bootstrap.sh", "run_experiment.sh", "run_gpu_reference.sh", "make_report.sh", "test.sh"]
)
def test_help_says_how_to_use_it(name):
    told = script(name, "--help")
    assert told.returncode == 0
    assert told.stdout.startswith(f"Usage: scripts/{name}")


def test_an_unknown_experiment_is_refused_with_those_there_are():
    told = script("run_experiment.sh", "e77")
    assert told.returncode == 2
    assert told.stderr == "run_experiment.sh: no experiment 'e77'. Experiments: e0 e1 e2\n"


def test_no_experiment_shows_the_usage():
    told = script("run_experiment.sh")
    assert told.returncode == 2
    assert told.stderr.startswith("Usage: ")


def test_an_unknown_option_of_the_set_up_is_refused():
    told = script("bootstrap.sh", "--fast")
    assert (told.returncode, told.stderr) == (2, "bootstrap.sh: unknown option --fast (--help lists them)\n")


def test_a_missing_requirements_file_is_refused():
    told = script("bootstrap.sh", CONTEXT_RESEARCH_REQUIREMENTS_FILE="no.txt")
    assert (told.returncode, told.stderr) == (2, "bootstrap.sh: no such requirements file: no.txt\n")


@pytest.mark.parametrize(
    ("content", "run", "line"),
    [
        (None, "latest", "ERROR: no run in "),
        ("{}", "other", "ERROR: no run 'other' in "),
        ("{", "mine", "corrupt, no valid JSON"),
        ('{"schema_version": 7}', "mine", "has schema version 7, this version reads 3"),
    ],
    ids=["no run", "unknown run", "corrupt", "another version"],
)
def test_a_report_that_cannot_be_made_is_told_in_one_line(tmp_path, content, run, line):
    if content is not None:
        (tmp_path / "runs" / "mine").mkdir(parents=True)
        (tmp_path / "runs" / "mine" / "run_metadata.json").write_text(content)
    told = script("make_report.sh", run, CONTEXT_RESEARCH_OUTPUTS=str(tmp_path))
    assert told.returncode == 2
    assert line in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "reports").exists()
