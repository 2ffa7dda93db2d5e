"""examples/experiment_package as its users have it: both wheels installed, run from the package's own repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from context_research.records.files import RunFiles
from tests.support.artifacts import metadata, plain, rows_saved
from tests.support.suite import ROOT

PACKAGE = ROOT / "examples" / "experiment_package"
CASES = [f"p64-c1-output_tokens_{tokens}-rest_s_{rest}" for tokens in (4, 8) for rest in ("0", "0.01")]
SIMULATED = ("--cr-seed=0", "--cr-device-profile=cpu-2core")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the package's repository, and an environment in which its wheel and ours are."""
    home = tmp_path_factory.mktemp("installed")
    pip, quiet = [sys.executable, "-m", "pip"], ["--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "wheel", *quiet, "--wheel-dir", home / "wheels", ROOT, PACKAGE], check=True)
    wheels = sorted((home / "wheels").glob("*.whl"))
    subprocess.run([*pip, "install", *quiet, "--target", home / "site", *wheels], check=True)
    shutil.copytree(PACKAGE, home / "repository")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONTEXT_RESEARCH_", "PYTEST_"))}
    own = {"PYTHONPATH": str(home / "site"), "CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND": "1"}
    return SimpleNamespace(repository=home / "repository", environment=kept | own)


def call(installed, *arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd or installed.repository,
        env=installed.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def cases(folder):
    return plain(RunFiles(folder.parent.parent, folder.name).summary("rest"), "summary")["cases"]


@pytest.fixture(scope="module")
def runs(installed):
    """The experiment in both modes, from the repository's rootdir."""
    made = []
    for mode in ("aggregated", "disaggregated"):
        options = (f"--serving={mode}", f"--run-id={mode}")  # short names: the repository asks for them
        ran = call(installed, "pytest", "rest_study/experiments/rest", *SIMULATED, *options)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert f"context-research: SIMULATED, no engine runs: rest, {mode}, backend simulated" in ran.stdout
        made.append(installed.repository / "outputs" / "runs" / mode)
    return made


def test_its_axes_are_cases_and_rows(installed, runs):
    for folder in runs:
        assert [case["name"] for case in cases(folder)] == CASES
        assert metadata(folder)["status"] == "completed"
    names = {row["name"] for row in json.loads(rows_saved(installed.repository)[0].read_text())["benchmarks"]}
    assert {f"{metric} {case}" for metric in ("ttft", "answer_time") for case in CASES} <= names


def test_its_metric_check_engine_and_section_are_in_the_run(installed, runs):
    for case in cases(runs[0]):
        assert case["metrics"]["answer_time"]["mean"] > 0
        assert case["validity"][-1]["check"] == "patient"
        assert case["validity"][-1]["status"] == "pass"
    served = (runs[1] / "logs" / "requests-served.jsonl").read_text().splitlines()
    assert {json.loads(line)["engine"] for line in served} == {"prefill", "decode"}
    report = (installed.repository / "outputs" / "reports" / "aggregated.md").read_text()
    header = next(line for line in report.splitlines() if line.startswith("| case"))
    assert [cell.strip() for cell in header.split("|")[2:6]] == [
        "prompt tokens", "concurrency", "output tokens", "rest s",
    ]  # fmt: skip
    section = report.partition("## Answers after a rest")[2]
    assert [line.split("|")[1].strip() for line in section.splitlines()[4:]] == CASES


def test_its_cases_are_compared(installed, runs):
    """By its own metric; simulated, so without a verdict."""
    told = call(installed, "context_research", "verdict", "aggregated", "disaggregated", "--primary=answer_time")
    assert told.returncode == 0, told.stderr
    assert [line.split()[1] for line in told.stdout.splitlines() if line.startswith("answer_time")] == CASES
    assert re.search(r"SIMULATED, no verdict: .*: answer_time × 0\.\d+.* in 4 of 4 cases\.", told.stdout)


def test_it_runs_anywhere_by_its_modules_name_and_on_several_workers(installed, tmp_path):
    options = ("-n2", "--cr-run-id=here", "--cr-repeats=1")
    ran = call(installed, "pytest", "--pyargs", "rest_study.experiments.rest", *SIMULATED, *options, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    recorded = metadata(tmp_path / "outputs" / "runs" / "here")
    assert (recorded["status"], recorded["planned"]) == ("completed", 4)


def test_an_ab_of_it_is_planned_by_its_name(installed):
    told = call(installed, "context_research", "ab", "nothing")
    assert told.stderr == "ERROR: no experiment 'nothing' here (there are: rest): run this in its repository\n"
