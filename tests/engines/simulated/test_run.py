"""Whole simulated runs: everything they leave says what they are, and the same seed leaves the same."""

import json

import pytest

from context_research.cli.main import main as cli
from tests.support.artifacts import metadata, rows_saved, summary
from tests.support.machine import profile
from tests.support.suite import SMALL

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
CPU = ("--seed=0", "--device-profile=cpu-2core", "--prompt-lengths=256", *SMALL[1:])


@pytest.fixture
def run(suite):
    """Runs E0 with options of its own, and gives its result and folder."""

    def run(*options, outputs="outputs", name="mine"):
        result = suite.inside(*CPU, f"--outputs={outputs}", f"--run-id={name}", *options)
        result.assert_outcomes(passed=2)
        return result, suite.path / outputs / "runs" / name

    return run


@pytest.mark.parametrize("serving", ["aggregated", "disaggregated"])
def test_everything_that_a_run_leaves_says_simulated(run, suite, serving):
    result, folder = run(f"--serving={serving}")
    result.stdout.fnmatch_lines(
        [f"context-research: SIMULATED, no engine runs: e0, {serving}, backend simulated, device cpu, *"]
    )
    recorded, found = metadata(folder), summary(folder)
    assert recorded["status"] == found["status"] == "completed"
    assert recorded["backend"] == found["backend"] == "simulated"
    assert {engine["simulated"]["device_profile"] for engine in recorded["engines"]} == {"cpu-2core"}
    for case in found["cases"]:
        assert case["simulation"]["steps"] > 0
        assert case["simulation"]["extrapolated"] == 0
        checks = {check["check"]: check for check in case["validity"]}
        for name in ("client", "transport", "parity"):
            assert (checks[name]["status"], checks[name]["evidence"]) == ("n/a", "simulated: no engine ran")
        assert {check["status"] for check in checks.values()} <= {"pass", "n/a"}
    (saved,) = rows_saved(suite.path)
    rows = json.loads(saved.read_text())["benchmarks"]
    assert rows
    assert all("[simulated " in row["fullname"] and "cpu-2core" in row["fullname"] for row in rows)
    text = (suite.path / "outputs" / "reports" / "mine.md").read_text()
    assert "SIMULATED cpu-2core (linear, calibrated on real runs)" in text.splitlines()[0]
    assert "> **SIMULATED: no engine ran, these are a model's figures.**" in text
    assert "Extrapolated" not in text


def test_a_seed_makes_the_same_bytes_again_and_two_workers_what_one_process_makes(run):
    """The same as yesterday: test_golden.py."""
    _, serial = run("--serving=disaggregated")
    _, again = run("--serving=disaggregated", outputs="again")
    for name in ("e0_summary.json", "requests.jsonl"):
        assert (serial / name).read_bytes() == (again / name).read_bytes()
    _, another = run("--serving=disaggregated", "--seed=1", outputs="seed")
    assert (serial / "requests.jsonl").read_bytes() != (another / "requests.jsonl").read_bytes()
    _, spread = run("--serving=disaggregated", "-n2", outputs="spread")
    cases = [{case["name"]: case for case in summary(folder)["cases"]} for folder in (serial, spread)]
    assert cases[0].keys() == {"p256-c1", "p256-c2"}
    assert cases[0] == cases[1]
    lines = [sorted((folder / "requests.jsonl").read_text().splitlines()) for folder in (serial, spread)]
    assert lines[0] == lines[1]


def test_what_is_extrapolated_is_marked(run, suite):
    path = profile(suite.path / "narrow.yaml", ranges={"prefill_tokens": [0, 100]})
    _, folder = run(f"--device-profile={path}")
    for case in summary(folder)["cases"]:
        assert 0 < case["simulation"]["extrapolated"] < case["simulation"]["steps"]
    (saved,) = rows_saved(suite.path)
    assert all("EXTRAPOLATED" in row["fullname"] for row in json.loads(saved.read_text())["benchmarks"])
    text = (suite.path / "outputs" / "reports" / "mine.md").read_text()
    assert "**Extrapolated**, beyond what the step times are known for: p256-c1 (" in text


def compared(suite, one, other, capsys):
    """Exit status of `verdict` on two runs, and what it says."""
    with pytest.raises(SystemExit) as ended:
        cli(["verdict", str(one), str(other)])
    return ended.value.code, "".join(capsys.readouterr())


def test_runs_of_one_profile_compare_and_of_two_do_not(run, suite, capsys):
    several = ("--repeats=2",)
    _, whole = run(*several, name="whole")
    _, split = run(*several, "--serving=disaggregated", name="split")
    path = profile(suite.path / "other.yaml")
    _, other = run(*several, f"--device-profile={path}", name="other")
    status, said = compared(suite, whole, split, capsys)
    assert "device_profile" not in said
    assert status == 0
    status, said = compared(suite, whole, other, capsys)
    assert "device_profile" in said
    assert status == 2


def test_a_typed_folder_is_where_one_stands_and_the_usual_one_at_the_projects_root(suite, monkeypatch):
    monkeypatch.chdir(suite.path / "benchmarks")
    for options in (["--outputs=mine"], []):
        suite.inside(*CPU, *options, folder="e0").assert_outcomes(passed=2)
    monkeypatch.setenv("CONTEXT_RESEARCH_OUTPUTS", "~/kept")
    monkeypatch.setenv("HOME", str(suite.path / "home"))
    suite.inside(*CPU, folder="e0").assert_outcomes(passed=2)
    folders = ("benchmarks/mine", "outputs", "home/kept")
    assert [len(list((suite.path / folder / "runs").iterdir())) for folder in folders] == [1, 1, 1]
    assert not (suite.path / "benchmarks" / "~").exists()
