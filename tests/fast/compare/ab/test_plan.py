"""What an A/B is asked to do: arms, order, seeds, family."""

import pytest

from context_research.compare import family
from context_research.compare.ab import arms as ab_arms
from context_research.compare.statistics import PRACTICAL
from context_research.errors import UsageProblem
from context_research.settings.schema import CONFIGS
from tests.support.made_sessions import plan, two


def test_arms_are_run_ab_ba_ba_ab_and_pairs_share_a_seed():
    order = [(session.pair, session.arm, session.seed) for session in plan(pairs=4).sessions()]
    assert order == [
        (0, "baseline", 5),
        (0, "candidate", 5),
        (1, "candidate", 6),
        (1, "baseline", 6),
        (2, "candidate", 7),
        (2, "baseline", 7),
        (3, "baseline", 8),
        (3, "candidate", 8),
    ]


@pytest.mark.parametrize("pairs", range(2, 9, 2))
def test_over_pairs_of_pairs_both_arms_run_equally_early(pairs):
    order = [session.arm for session in plan(pairs=pairs).sessions()]
    places = {arm: sum(i for i, each in enumerate(order) if each == arm) for arm in two()}
    assert places["baseline"] == places["candidate"]


def test_the_family_and_the_practical_difference_are_those_of_everyone_or_the_users():
    default, named = plan(), plan(primary=["e2e"], practical=0.1)
    assert (default.primary, default.practical) == (family.PRIMARY, PRACTICAL)
    assert (named.primary, named.practical) == (("e2e",), 0.1)


def test_an_arm_is_a_mode_with_options():
    made_plan = plan(
        arms=two("aggregated --dtype bfloat16 --requests=9 --set engine.max_num_batched_tokens=64 --set=slo.ttft=0.5"),
        pytest_options=("-k", "c1"),
        allow_different=("model.dtype", "workload.requests", "slo"),
    )
    arm = made_plan.settings["candidate"]
    assert (arm["serving"]["mode"], arm["model"]["dtype"], arm["workload"]["requests"]) == ("aggregated", "bfloat16", 9)
    assert (arm["engine"]["max_num_batched_tokens"], arm["slo"]["ttft"]) == (64, 0.5)
    assert made_plan.settings["baseline"]["model"]["dtype"] == "float32"
    assert made_plan.arguments("candidate") == [
        *("-k", "c1", "--cr-serving=aggregated", "--cr-dtype", "bfloat16", "--cr-requests=9"),
        *("--cr-set", "engine.max_num_batched_tokens=64", "--cr-set=slo.ttft=0.5"),
    ]


def test_an_arm_can_be_a_file(here):
    (here / "mine.yaml").write_text("mode: aggregated\nengines: [{name: own, role: aggregated}]\n")
    assert plan(arms=two("mine.yaml")).settings["candidate"]["serving"]["engines"][0]["name"] == "own"


def test_a_value_with_a_space_stays_one(here):
    (here / "my experiment.yaml").write_text((CONFIGS / "experiments/e0_smoke.yaml").read_text())
    made_plan = plan(arms=two("aggregated --experiment-config 'my experiment.yaml'"))
    assert made_plan.arguments("candidate")[1:] == ["--cr-experiment-config", "my experiment.yaml"]


def test_the_environment_counts_for_both_arms_and_an_arms_own_option_wins(monkeypatch):
    monkeypatch.setattr(ab_arms, "from_environment", lambda: {"--requests": "11"})
    settings = plan(arms=two("aggregated --requests=9"), allow_different=("workload.requests",)).settings
    assert [settings[arm]["workload"]["requests"] for arm in two()] == [11, 9]


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("", "begin with a serving mode"),
        ("   ", "begin with a serving mode"),
        ("--dtype half", "begin with a serving mode (aggregated, aggregated-2x, "),
        ("split", "unknown serving mode 'split'"),
        ("no.yaml", "cannot read no.yaml"),
        ("aggregated --serving disaggregated", "leave --serving out"),
        ("aggregated --serving-config a.yaml", "leave --serving-config out"),
        ("aggregated --seed 1", "--seed is no option of an arm"),
        ("aggregated --repeats=1", "--repeats is no option of an arm"),
        ("aggregated --outputs=x", "--outputs is no option of an arm"),
        ("aggregated --run-id=x", "--run-id is no option of an arm"),
        ("aggregated --benchmark-disable", "--benchmark-disable is no option of an arm"),
        ("aggregated disaggregated", "disaggregated is no option of an arm"),
        ("aggregated --requests", "--requests needs a value"),
        ("aggregated --requests=many", "--requests=many: expected a value like N"),
        ("aggregated --set", "--set needs a value"),
        ("aggregated --set x", "--set x: expected KEY=VALUE"),
        ("aggregated --set engine.x=1", "engine.x: unknown key"),
        ("aggregated 'open", "--candidate"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_in_one_line(arm, told):
    with pytest.raises(UsageProblem) as problem:
        plan(arms=two(arm))
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("option", ["--serving=aggregated", "--serving-config=x.yaml", "--seed=1", "--repeats=2"])
def test_options_of_every_session_cannot_replace_what_the_ab_decides(option):
    with pytest.raises(UsageProblem, match=f"{option.partition('=')[0]} can't be among the pytest options"):
        plan(pytest_options=(option,))


def test_options_of_every_session_are_in_both_arms_settings():
    settings = plan(pytest_options=("-k", "c1", "--requests", "9", "--set=slo.ttft=2")).settings
    assert [settings[arm]["workload"]["requests"] for arm in two()] == [9, 9]
    assert [settings[arm]["slo"]["ttft"] for arm in two()] == [2, 2]


@pytest.mark.parametrize("name", ["", "ttft.", "ttft.p42", ".p50"])
def test_a_family_that_cannot_be_is_refused_before_any_session(name):
    with pytest.raises(UsageProblem, match=r"--primary .*: expected metrics such as ttft"):
        plan(primary=[name])


CLASSES = (
    "--set=workload.classes={chat: {prompt: 16}, document: {prompt: 64}}",
    "--set=workload.prompt_lengths=[]",
)


@pytest.mark.parametrize("name", ["ttft", "chat.ttft", "document.ttft.p90"])
def test_a_family_can_be_of_a_class(name):
    assert plan(primary=[name], pytest_options=(*CLASSES, "--requests=300")).primary == (name,)


@pytest.mark.parametrize("name", ["code.ttft", "ttft.p42", "code.ttft.p90"])
def test_a_class_that_the_load_has_not_is_refused_with_those_it_has(name):
    with pytest.raises(UsageProblem, match=f"--primary {name}: there is no class .*; this load has chat, document"):
        plan(primary=[name], pytest_options=CLASSES)


def test_the_family_is_metrics_times_cases():
    assert plan().family == 2 * 4
    assert plan(primary=["ttft"], pytest_options=("--concurrency=1",)).family == 2
