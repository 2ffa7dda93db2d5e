"""Every arm is asked before the first session what its sessions would refuse."""

import pytest

from context_research.backends import vllm as vllm_backend
from context_research.compare.ab import preflight
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from tests.support.commands import refused, run
from tests.support.made_sessions import plan, two

THREE = {"whole": "aggregated", "small": "aggregated --set engine.max_num_seqs=64", "split": "disaggregated"}


def machine(monkeypatch, kind, count, gib=8):
    """As on a machine with so many cores or GPUs."""
    memory = (gib << 30,) * (1 if kind == "cpu" else count)
    there = Machine(kind, tuple(range(count)), memory)
    monkeypatch.setattr("context_research.hardware.devices.this_machine", lambda _: there)


def refuses(told, **values):
    with pytest.raises(UsageProblem) as problem:
        preflight.check(plan(**values))
    assert str(problem.value).startswith(told), str(problem.value)
    assert "\n" not in str(problem.value)


def test_arms_that_can_run_have_nothing_said_of_them():
    assert preflight.check(plan()) == preflight.check(plan(arms=THREE)) == []


def test_a_missing_package_is_told_of_the_arm_that_needs_it(monkeypatch):
    real = vllm_backend.find_spec
    monkeypatch.setattr(vllm_backend, "find_spec", lambda name: None if name == "nixl" else real(name))
    assert preflight.check(plan(arms=two("aggregated"))) == []
    refuses("arm candidate: NIXL is not installed")
    refuses("arm split: NIXL is not installed", arms=THREE)


def test_the_last_arms_lengths_and_memory_are_told_before_the_first_session():
    few = "aggregated --set engine.max_num_seqs=3"
    refuses("arm candidate: 4 requests in flight are over engine.max_num_seqs, 3", arms=two(few))
    refuses("arm small: 4 requests in flight", arms=THREE | {"small": few})
    memory = {"pytest_options": ("--set=engine.kv_cache_memory_bytes=40000000",)}
    refuses("arm candidate: KV cache too small on engine prefill", **memory)
    long = {"pytest_options": ("--prompt-lengths=200000",)}
    refuses("arm baseline: a prompt of 200000 + 16 output tokens is over the", **long)


def test_devices_that_are_not_there_are_told(monkeypatch):
    machine(monkeypatch, "cpu", 2)
    arms = two("aggregated --devices=0,7") | {"baseline": "aggregated --devices=0,1"}
    refuses("arm candidate: devices [7] are not here", arms=arms)


def test_each_arm_is_checked_on_each_group_as_all_that_it_sees(monkeypatch):
    machine(monkeypatch, "cpu", 4)
    assert preflight.check(plan(device_groups="0,1;2,3")) == []
    named = {"baseline": "aggregated-2x", "candidate": "disaggregated-1p1d"}  # cores 0 and 1
    refuses("arm baseline on devices 2,3: devices [0, 1] are not here", arms=named, device_groups="0,1;2,3")


def test_gpus_of_a_group_count_from_0(monkeypatch):
    there = Machine("cuda", (0, 1, 2, 3), (8, 16, 24, 32))
    assert there.seeing((2, 3)) == Machine("cuda", (0, 1), (24, 32))
    assert Machine("cpu", (0, 1, 2), (8,)).seeing((1, 2)) == Machine("cpu", (1, 2), (8,))


def test_where_pytest_chooses_among_the_cases_one_that_can_run_is_enough():
    arms = two("aggregated --set engine.max_num_seqs=3")
    assert preflight.check(plan(arms=arms, pytest_options=("-k", "c1"))) == []
    refuses(
        "arm candidate: 4 requests in flight are over engine.max_num_seqs, 3",
        arms=arms,
        pytest_options=("-k", "c4", "--concurrency=4"),
    )


def test_a_model_that_cannot_be_looked_up_is_refused(here):
    (here / "empty").mkdir()
    refuses("arm baseline: cannot read the model", pytest_options=("--model-name=empty",))


def test_a_load_that_will_queue_is_said_of_each_arm():
    spread = (
        "--set=workload.output_tokens={p50: 100, p90: 2000, max: 4000}",
        "--set=engine.kv_cache_memory_bytes=40000000",
        "--prompt-lengths=64",
        "--concurrency=32",
        "--set=model.max_model_len=4096",
    )
    told = preflight.check(plan(pytest_options=spread, arms=two("aggregated --set engine.max_num_seqs=64")))
    assert len(told) == 2
    assert told[0].startswith("arm baseline: p64-c32: KV cache too small on engine aggregated: ")
    assert told[1].startswith("arm candidate: ")


def test_the_command_line_refuses_it_before_anything_is_written(outputs):
    refused(run("ab", "e0", "--candidate", "aggregated --set engine.max_num_seqs=3"), "arm candidate: 4 requests")
    assert not (outputs / "ab").exists()
