"""The simulator's errors in the shipped profiles are those of the kept fidelity reports, and of no other profile's."""

import json

import pytest

from context_research.engines.simulated import profiles
from tests.support.studies import study
from tests.support.suite import ROOT


@pytest.fixture(scope="module")
def errors():
    return study("simulation", "profile_errors")


@pytest.mark.parametrize("name", ["h200", "cpu-2core"])
def test_the_shipped_profiles_carry_what_the_kept_reports_say(errors, name):
    path = ROOT / "configs" / "devices" / f"{name}.yaml"
    assert path.read_text() == errors.with_block(path.read_text(), errors.known(name)), (
        "run: python benchmarks/studies/simulation/profile_errors.py"
    )
    assert profiles.load(name).fidelity == errors.known(name)


def test_profiles_without_real_runs_carry_none():
    assert [name for name in profiles.names() if profiles.load(name).fidelity] == ["cpu-2core", "h200"]


def test_only_p50s_with_an_error_count_and_their_sign_does_not(errors, tmp_path):
    (tmp_path / "report.md").write_text(
        "| arm | case    | figure   | samples | real   | simulated | error  | bar | |\n"
        "| a   | p64-c1  | ttft p50 | 18      | 141 ms | 180 ms    | +28.1% | 10% | MISS |\n"
        "| a   | p64-c1  | ttft p90 | 18      | 141 ms | 180 ms    | +50.0% | 10% | MISS |\n"
        "| a   | p64-c1  | tpot p50 | 18      | 10 ms  | 9 ms      | -10.0% | 5%  | MISS |\n"
        "| a   | p64-c4  | tpot p50 | 18      | –      | –         | –      | 5%  | –    |\n"
    )
    assert list(errors.errors(tmp_path / "report.md")) == [("ttft", pytest.approx(0.281)), ("tpot", pytest.approx(0.1))]


def test_the_report_on_cpu_is_of_the_shipped_fit_and_the_table_is_that_of_its_data(errors):
    """`profile2` there is `cpu-2core` here: the same runs, the same residuals."""
    kept = json.loads((ROOT / "docs/results/simulation-cpu/fidelity.json").read_text())
    shipped = profiles.load("cpu-2core")
    assert {run for fit in shipped.step_time.fits for run in fit.runs} == set(kept["profile"]["fitted_on"])
    assert {name: shipped.provenance[name] for name in ("link", "client")} == {
        name: kept["profile"]["provenance"][name] for name in ("link", "client")
    }
    p50s = [figure for figure in kept["figures"] if figure["statistic"] == "p50"]
    told = list(errors.errors(ROOT / "docs/results/simulation-cpu/fidelity.md"))
    assert told == [(figure["metric"], pytest.approx(abs(figure["error"]), abs=5e-4)) for figure in p50s]


def test_reports_on_the_h200_are_of_the_profile_as_shipped(errors):
    for report in errors.REPORTS["h200"]:
        assert "device profile h200: step times by aiconfigurator, NOT calibrated" in report.read_text()
    assert not profiles.load("h200").calibrated


def test_errors_are_no_part_of_what_a_profile_simulates():
    profile = profiles.load("h200")
    assert profile.model_copy(update={"fidelity": None}).digest == profile.digest
