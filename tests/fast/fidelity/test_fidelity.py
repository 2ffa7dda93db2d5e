"""Fidelity: errors, bars, signs, refusals; runs and simulations are made by hand (tests/slow serves)."""

import copy
import json
from dataclasses import replace

import pytest

from context_research.engines.simulated import profiles
from context_research.fidelity import fidelity
from context_research.fidelity.replay import Replayed
from context_research.records.files import AbFiles
from context_research.records.run import StepTimesRecord
from context_research.settings.options import SIMULATED_OPT_IN
from tests.support import made, made_runs
from tests.support.artifacts import keep, plain
from tests.support.commands import refused, run
from tests.support.made import GPUS, MACHINE
from tests.support.made_runs import CASE

pytestmark = pytest.mark.usefixtures("here")
REPORT = "outputs/reports"


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv(SIMULATED_OPT_IN, "1")


@pytest.fixture
def outputs(here):
    return here / "outputs"


def scaled(repeat, factor):
    """The repeat on a machine that takes `factor` × as long."""
    return replace(repeat, timelines=[slower(each, factor) for each in repeat.timelines])


def slower(request, factor):
    leg = request.answer
    times = [request.scheduled + (at - request.scheduled) * factor for at in leg.token_times]
    legs = [replace(each, token_times=times) if each is leg else each for each in request.legs]
    return replace(request, legs=legs)


@pytest.fixture
def simulated(monkeypatch):
    """What simulations take, by serving mode, as multiples of the real times."""
    factors = {"aggregated": 1.0, "disaggregated": 1.0}

    def replayed(runs, real, profile):
        factor = factors[runs[0].metadata.serving.mode]
        cases = tuple({name: [scaled(one, factor) for one in of] for name, of in cases.items()} for cases in real)
        return Replayed(cases, 100, 3, (StepTimesRecord(source="linear"),))

    monkeypatch.setattr(fidelity, "replay", replayed)
    return factors


def told(*arguments):
    result = run("fidelity", *arguments, "--device-profile", "cpu-2core")
    assert result.exit_code == 0, result.output
    (path,) = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("report ")]
    return result.stdout, plain(fidelity.Path(path).with_suffix(".json"), "fidelity")


def real(outputs, run_id, ttft=0.1, tpot=0.01, *, repeats=3, requests=12, machine=MACHINE, changes=None, **values):
    figures = {CASE: {"ttft": [ttft] * repeats, "tpot": [tpot] * repeats}}
    manifest = made.metadata()["environment_manifest"] | {"machine": copy.deepcopy(machine)}
    given = {"environment_manifest": manifest} | values
    return made_runs.run(outputs, run_id, figures, requests=requests, changes=changes, **given)


def test_errors_are_held_against_their_bars(outputs, simulated):
    real(outputs, "r1")
    simulated["aggregated"] = 1.07
    text, found = told("r1")
    errors = {(one["metric"], one["statistic"]): one for one in found["figures"]}
    assert errors["tpot", "p50"]["error"] == pytest.approx(0.07)
    assert [errors[name, "p50"]["passed"] for name in ("tpot", "ttft")] == [False, True]
    # 36 samples carry no p90.
    assert [errors["tpot", "p90"][key] for key in ("real", "error", "passed", "count")] == [None, None, None, 36]
    assert text.startswith("SIMULATED against real: e0, tiny-qwen3 seeded:")
    assert text.splitlines()[-1] == "1 of 2 figures within the bars (held out); 2 with too few samples"
    assert "no signs: runs of one serving mode only" in text
    assert "3.0% of the steps extrapolated" in text


def test_a_miss_can_fail_the_command(outputs, simulated):
    real(outputs, "r1")
    for factor, code in ((1.04, 0), (1.07, 1)):
        simulated["aggregated"] = factor
        arguments = ("r1", "--device-profile", "cpu-2core", "--fail-on", "miss")
        assert run("fidelity", *arguments).exit_code == code


def test_runs_of_other_seeds_are_pooled_and_others_are_not(outputs, simulated):
    real(outputs, "r1")
    real(outputs, "r2", seed=1, changes={"settings.seed": 1})
    real(outputs, "r3", changes={"settings.engine.max_num_batched_tokens": 64})
    _, found = told("r1", "r2", "r3")
    assert [(arm["label"], arm["runs"]) for arm in found["arms"]] == [
        ("aggregated 1", ["r1", "r2"]),
        ("aggregated 2", ["r3"]),
    ]
    assert found["figures"][0]["count"] == 72


def test_a_run_that_the_profile_was_fitted_on_is_not_held_out(outputs, simulated):
    real(outputs, "fitted-aggregated-0")
    text, found = told("fitted-aggregated-0")
    assert "WARNING: not held out: the profile was fitted on fitted-aggregated-0" in text
    assert text.splitlines()[-1].startswith("2 of 2 figures within the bars (not held out)")
    assert found["seen"] == ["fitted-aggregated-0"]


@pytest.mark.parametrize(
    ("disaggregated", "simulation", "outcome", "agrees"),
    [
        (0.15, 1.0, "higher", True),
        (0.15, 0.5, "higher", False),
        (0.06, 1.0, "lower", True),
        (0.06, 3.0, "lower", False),
        (0.105, 1.0, "undecided", None),
    ],
)
def test_signs_of_one_run_a_mode(outputs, simulated, disaggregated, simulation, outcome, agrees):
    real(outputs, "r1")
    real(outputs, "r2", disaggregated, serving="disaggregated")
    simulated["disaggregated"] = simulation
    text, found = told("r1", "r2")
    sign = next(sign for sign in found["signs"] if sign["metric"] == "ttft")
    assert (sign["outcome"], sign["agrees"]) == (outcome, agrees)
    assert "3 and 3 repeats, 10% between them" in sign["how"]
    assert ("DIFFERS" in text) == (agrees is False)


def test_with_four_runs_a_mode_their_own_spread_is_enough(outputs, simulated):
    ids = []
    for seed in range(4):
        for mode, ttft in (("aggregated", 0.1), ("disaggregated", 0.108)):
            ids.append(f"{mode}-{seed}")
            changes = {"settings.seed": seed}
            real(outputs, ids[-1], ttft, serving=mode, seed=seed, requests=60, repeats=1, changes=changes)
    few = next(sign for sign in told(*ids[:6])[1]["signs"] if sign["metric"] == "ttft")
    enough = next(sign for sign in told(*ids)[1]["signs"] if sign["metric"] == "ttft")
    assert (few["outcome"], few["how"]) == ("undecided", "p50s of 3 and 3 runs, 10% between them asked for")
    assert (enough["outcome"], enough["how"]) == ("higher", "p50s of 4 and 4 runs")


@pytest.mark.parametrize(
    ("ratio", "simulation", "outcome", "agrees"),
    [(1.3, 1.0, "higher", True), (1.3, 0.5, "higher", False), (1.0, 1.0, "equivalent", True)],
)
def test_signs_by_the_verdicts_of_an_ab(outputs, simulated, ratio, simulation, outcome, agrees):
    files = made_runs.A_B(outputs, ratio=ratio, noise=0.001)
    simulated["disaggregated"] = simulation
    assert not files.verdict.exists()
    for how in ("judged now", "verdict.json"):
        _, found = told("ab1")
        sign = next(sign for sign in found["signs"] if sign["metric"] == "tpot")
        assert (sign["outcome"], sign["agrees"], sign["how"]) == (outcome, agrees, how)
        assert run("verdict", "ab1").exit_code == 0
    assert [len(arm["runs"]) for arm in found["arms"]] == [6, 6]
    made_runs.edit(files.verdict, "verdict", sides__0__runs=["another"])
    assert told("ab1")[1]["signs"][0]["how"] == "judged now"


def test_an_aa_has_no_signs(outputs, simulated):
    made_runs.A_B(outputs, arms={"baseline": "aggregated", "candidate": "aggregated"})
    files = AbFiles(outputs, "ab1")
    record = plain(files.record, "ab")
    record["plan"]["settings"]["candidate"] = record["plan"]["settings"]["baseline"]
    keep(files.record, "ab", record)
    text, found = told("ab1")
    assert "no signs: an A/A" in text
    assert found["signs"] == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"backend": "simulated"}, "r1 is simulated"),
        ({"status": "failed"}, "r1 is in no comparison: its status is failed"),
        ({"device": "cuda"}, "device profile cpu-2core is for cpu, run r1 ran on cuda"),
        ({"machine": GPUS | {"cpu": MACHINE["cpu"] | {"cores": [0, 1, 2, 3]}}}, "2 CPU cores, run r1 ran on 4"),
        ({"changes": {"model.label": "tiny-qwen3 seeded:00000000"}}, "run r1 served tiny-qwen3 seeded:00000000"),
        ({"changes": {"settings.unheard": 1}}, "run r1 is from another version: unheard"),
        ({}, "run r1, case p64-c1: its requests are not those"),
    ],
    ids=["simulated", "failed", "device", "cores", "model", "settings", "requests"],
)
def test_a_run_that_can_t_be_held_against_is_named(outputs, values, problem):
    real(outputs, "r1", **values)
    refused(run("fidelity", "r1", "--device-profile", "cpu-2core"), problem)
    assert not (outputs / "reports").exists()


def test_a_run_with_a_failed_check_is_named(outputs):
    files = real(outputs, "r1")
    made_runs.edit(files.summary("e0"), "summary", cases__0__validity__0__status="fail")
    refused(run("fidelity", "r1"), "run r1 is in no comparison: complete failed")


def test_a_run_of_a_later_version_is_named(outputs):
    files = real(outputs, "r1")
    files.metadata.write_text(json.dumps({"schema_version": 99}))
    refused(run("fidelity", "r1"), "runs/r1/run_metadata.json has schema version 99")


def test_a_run_without_steps_needs_a_profile(outputs):
    real(outputs, "r1")
    refused(run("fidelity", "r1"), "r1 has no step records")


def test_what_is_named_must_go_together(outputs):
    real(outputs, "r1")
    made_runs.A_B(outputs)
    refused(run("fidelity", "r1", "ab1"), "name one A/B, or runs")
    refused(run("fidelity", "r1", "r1"), "run r1 is named twice")


def test_simulating_must_be_allowed(outputs, monkeypatch):
    real(outputs, "r1")
    monkeypatch.delenv(SIMULATED_OPT_IN)
    refused(run("fidelity", "r1"), SIMULATED_OPT_IN)


def test_what_the_shipped_profile_was_fitted_on():
    runs = fidelity.fitted_on(profiles.load("cpu-2core"))
    assert sorted(runs) == [f"fitted-{mode}-{number}" for mode in ("aggregated", "disaggregated") for number in (0, 1)]
    assert fidelity.fitted_on(profiles.load("h200")) == ()
