"""What a simulation would take without following it is refused by name."""

import pytest

from context_research.backends.simulated import SimulatedBackend
from context_research.errors import UsageProblem
from tests.support.settings import chosen, resolve_model

NOT_MODELLED = {
    "speculative_config": {"method": "ngram", "num_speculative_tokens": 3},
    "spec_tokens": 3,
    "data_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "hf_overrides": {"num_hidden_layers": 1},
    "quantization": "fp8",
    "cpu_offload_gb": 4,
    "compilation_config": {"level": 0},
    "attention_backend": "FLASHINFER",
    "stream_interval": 8,
    "scheduling_policy": "priority",
    "no_such_argument": 1,
}


def check(device="cpu", profile="cpu-2core", serving="aggregated", **values):
    given = {"backend": "simulated", "device_profile": profile, "engine__enforce_eager": device == "cpu"} | values
    SimulatedBackend(chosen(serving, device, model__name="tiny-qwen3", model__weights="seeded", **given)).check_engines(
        resolve_model()
    )


@pytest.mark.parametrize("name", NOT_MODELLED)
def test_an_engine_argument_that_is_not_modelled_is_refused_by_name(name):
    with pytest.raises(UsageProblem, match=f"^engine.args.{name}: not simulated, ") as problem:
        check(engine__args={name: NOT_MODELLED[name]})
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"long_prefill_token_threshold": 64, "async_scheduling": False},
        {"trust_remote_code": True},
        {"data_parallel_size": 1, "speculative_config": None},
    ],
    ids=["none", "the scheduler's", "loading", "as it is unasked"],
)
def test_one_that_the_scheduler_follows_or_that_takes_no_time_is_not(args):
    check(engine__args=args)


@pytest.mark.parametrize(
    ("name", "value"), [("backends", ["GDS"]), ("extra_config", {"num_threads": 4}), ("progress_thread", "on")]
)
def test_a_handoff_that_no_link_is_of_is_refused(name, value):
    with pytest.raises(UsageProblem, match=f"^serving.handoff.{name}: not simulated, "):
        check(serving="disaggregated", **{f"serving__handoff__{name}": value})
    check(serving="disaggregated")


def test_eager_engines_on_a_gpu_are_not_those_that_were_measured():
    given = {"device": "cuda", "profile": "h200", "model__dtype": "bfloat16", "devices": [0]}
    with pytest.raises(UsageProblem, match=r"^engine.enforce_eager: not simulated, .* h200 are of CUDA graphs"):
        check(**given, engine__enforce_eager=True)
