"""The cases of a run: the product of its axes, each with the settings that hold for it."""

import pytest

from context_research.errors import UsageProblem
from context_research.workload.case import at, cases, engine_settings, parameters, point
from tests.support.settings import chosen


def with_axes(**axes):
    return chosen(workload__prompt_lengths=[64], workload__concurrency=[1, 2], axes=axes)


def names(settings):
    return [case.name for case in cases(settings)]


def refused(settings):
    with pytest.raises(UsageProblem) as caught:
        cases(settings)
    return str(caught.value)


def test_prompt_lengths_times_levels():
    found = cases(chosen(workload__prompt_lengths=[64, 128], workload__concurrency=[1, 4]))
    assert [case.name for case in found] == ["p64-c1", "p64-c4", "p128-c1", "p128-c4"]
    assert found[1].axes == {"prompt_tokens": 64, "concurrency": 4}
    assert found[1].settings.workload.prompt_lengths == (64,)


def test_any_setting_is_an_axis_and_its_case_has_that_setting():
    settings = with_axes(**{"workload.output_tokens": [8, 16]})
    assert names(settings) == [f"p64-c{level}-output_tokens_{count}" for level in (1, 2) for count in (8, 16)]
    last = cases(settings)[-1]
    assert last.axes == {"prompt_tokens": 64, "concurrency": 2, "output_tokens": 16}
    assert (last.settings.workload.output_tokens, last.settings.axes) == (16, {})


def test_cases_that_need_engines_of_their_own_come_together():
    found = cases(with_axes(**{"workload.output_tokens": [8, 16], "engine.max_num_batched_tokens": [256, 512]}))
    started = [engine_settings(case.settings) for case in found]
    assert len(found) == 8
    assert len(set(started[:4])) == len(set(started[4:])) == 1
    assert started[0] != started[4]
    assert [case.settings.engine.max_num_batched_tokens for case in found] == [256] * 4 + [512] * 4


def test_keys_may_be_nested_as_in_yaml():
    assert names(chosen(axes={"workload": {"output_tokens": [8]}}))[0].endswith("-output_tokens_8")


def test_values_of_every_kind_give_names():
    axes = {"workload.cache": ["cold", {"primed": 0.5}], "engine.enforce_eager": [True], "workload.temperature": [0.5]}
    settings = chosen(workload__prompt_lengths=[64], workload__concurrency=[1], axes=axes)
    assert names(settings) == [
        "p64-c1-cache_cold-enforce_eager_true-temperature_0.5",
        "p64-c1-cache_primed_0.5-enforce_eager_true-temperature_0.5",
    ]


def test_axes_of_one_last_part_keep_their_whole_key():
    settings = with_axes(**{"model.dtype": ["float32"], "engine.args.dtype": ["half"]})
    assert list(cases(settings)[0].axes)[2:] == ["model_dtype", "engine_args_dtype"]


def test_a_name_without_a_setting_is_the_tests_own_parameter():
    settings = with_axes(think_time=[0, 1])
    assert parameters(settings) == ["think_time"]
    assert cases(settings)[1].axes["think_time"] == 1


def test_a_case_is_found_again_by_its_axes():
    settings = with_axes(**{"workload.output_tokens": [8, 16]})
    for case in cases(settings):
        assert at(settings, case.axes) == case
    with pytest.raises(UsageProblem, match="axis rate: these settings have prompt_tokens, concurrency, output_tokens"):
        at(settings, {"rate": 1})


def test_no_two_cases_have_the_same_requests():
    settings = with_axes(**{"workload.output_tokens": [8, 16]})
    assert len({case.seed("repeat0") for case in cases(settings)}) == 4


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({"workload.output_token": [1]}, "axes.workload.output_token: unknown key; allowed here: allow_preemptions, "),
        (
            {"workload.output_tokens": ["8"]},
            "axes.workload.output_tokens: should be a number of tokens, {low: , high: } or {p50: , p90: , max: }",
        ),
        ({"nothing.here": [1]}, "axes.nothing.here: there is no nothing in these settings"),
        ({"serving.handoff.progress_thread": ["on"]}, "there is no serving.handoff in these settings"),
        ({"seed": [1, 2]}, "axes.seed: that is the whole run's, and can't differ between its cases"),
        ({"workload.concurrency": [3]}, "axes.workload.concurrency: every value of workload.concurrency is a case"),
        ({"model.revision": ["a b", "a_b"]}, "two cases are called p64-c1-revision_a_b"),
    ],
)
def test_what_can_not_be_an_axis_is_told_in_one_line(axes, told):
    line = refused(with_axes(**axes))
    assert line.startswith(told) or told in line
    assert "\n" not in line


@pytest.mark.parametrize("values", [[], [8, 8]])
def test_an_axis_needs_values_that_differ(values):
    with pytest.raises(UsageProblem, match=r"workload\.output_tokens needs values that differ"):
        with_axes(**{"workload.output_tokens": values})


def test_a_case_without_a_seed_draws_nothing():
    with pytest.raises(ValueError, match="needs a seed"):
        point(chosen().model_copy(update={"seed": None}), 64, 1).seed("warmup")
