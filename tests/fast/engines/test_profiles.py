"""Device profiles and step times: what is shipped, how a fit is found, where a figure counts as extrapolated."""

import itertools

import pytest
from click.testing import CliRunner

from context_research.cli import main as cli
from context_research.engines.batch import Batch
from context_research.engines.simulated import profiles
from context_research.engines.simulated.step_time import aiconfigurator, model_of
from context_research.errors import UsageProblem
from context_research.models.model import Model
from context_research.settings.schema import ModelSettings
from tests.support.settings import placement, resolve_model

needs_aiconfigurator = pytest.mark.skipif(
    aiconfigurator.installed() is None, reason="aiconfigurator-core is not installed (context-research[simulated])"
)
SHIPPED = ["a100-40gb", "a100-80gb", "cpu-2core", "h100", "h200"]


def qwen():
    return resolve_model("Qwen/Qwen3-8B", dtype="bfloat16")


def steps_of(name, **values):
    profile = profiles.load(name)
    if profile.step_time.source == "aiconfigurator":
        return model_of(profile, qwen(), placement(cores=(0,), **values))
    return model_of(profile, resolve_model(dtype="float32"), placement(**values))


def prefill(tokens, before=0):
    return Batch.of([(tokens, before)])


def decode(requests, before):
    return Batch.of([(1, before)] * requests)


def linear(**values):
    fit = {
        "model": resolve_model(dtype="float32").label,
        "dtype": "float32",
        "role": "aggregated",
        "devices": 2,
        "coefficients": {"constant": 1e-3, "prefill_pairs": 1e-6, "decode_requests": 1e-4},
        "ranges": {"prefill_tokens": (0, 100), "decode_requests": (0, 4)},
        "residuals": {},
        "steps": 20,
        "runs": ["r1"],
    }
    tree = {
        **{"name": "made", "device": "cpu", "count": 2, "memory_bytes": 1 << 30, "link": {"bandwidth": 1e9}},
        **{"step_time": {"source": "linear", "fits": [fit | values]}, "provenance": {"step_time": "made up"}},
    }
    return profiles.validated(tree, "made.yaml")


def test_these_are_shipped():
    assert profiles.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_says_where_its_numbers_come_from(name):
    profile = profiles.load(name)
    assert profile.name == name
    assert {"count", "memory_bytes", "link", "client", "step_time"} <= profile.provenance.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_more_work_takes_longer(name):
    if name != "cpu-2core":
        pytest.importorskip("aiconfigurator_core", reason="aiconfigurator-core is not installed")
    steps = steps_of(name)
    for batches in (
        [prefill(tokens) for tokens in (64, 256, 1024, 2048)],
        [prefill(512, before) for before in (0, 1024, 4096)],
        [decode(4, before) for before in (100, 500, 1000)],
    ):
        seconds = [steps.of(batch).seconds for batch in batches]
        assert seconds[0] > 0
        assert all(a <= b for a, b in itertools.pairwise(seconds)), seconds


def test_the_cpu_profile_has_every_role():
    profile, model = profiles.load("cpu-2core"), resolve_model(dtype="float32")
    model_of(profile, model, placement())
    for number in (0, 1):
        model_of(profile, model, placement("disaggregated", number))


def test_a_fit_is_the_sum_of_coefficient_times_feature():
    steps = model_of(linear(), resolve_model(dtype="float32"), placement())
    assert steps.of(Batch.of([(3, 10), (1, 5), (1, 6)])).seconds == pytest.approx(1e-3 + 36e-6 + 2e-4)
    assert steps.describe()["runs"] == ["r1"]


@pytest.mark.parametrize(
    ("batch", "extrapolated"),
    [(prefill(100), False), (prefill(101), True), (decode(4, 9), False), (decode(5, 9), True)],
)
def test_outside_its_ranges_a_fit_extrapolates(batch, extrapolated):
    assert model_of(linear(), resolve_model(dtype="float32"), placement()).of(batch).extrapolated is extrapolated


@pytest.mark.parametrize(
    "other",
    [{"model": "another seeded:0"}, {"dtype": "bfloat16"}, {"role": "prefill"}, {"devices": 1}],
    ids=lambda other: next(iter(other)),
)
def test_no_fit_for_this_engine_is_one_line_with_what_there_is(other):
    with pytest.raises(UsageProblem) as problem:
        model_of(linear(**other), resolve_model(dtype="float32"), placement())
    assert "aggregated on 2 devices, only for" in str(problem.value)
    assert str(next(iter(other.values()))) in str(problem.value)
    assert "calibrate" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_link_s_seconds():
    link = profiles.Link(latency_s=1.0, descriptor_s=0.5, bandwidth=10.0, same_device_bandwidth=20.0)
    assert link.seconds(100, 4) == 1 + 2 + 10
    assert link.seconds(100, 4, same_device=True) == 1 + 2 + 5
    assert profiles.Link(bandwidth=10.0).seconds(100, 4, same_device=True) == 10


def test_descriptors_are_as_the_handoff_page_counts_them():
    assert profiles.descriptors(qwen(), 32_768, 256) == 9_216


def test_without_the_package_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setattr(aiconfigurator, "find_spec", lambda _: None)
    with pytest.raises(UsageProblem, match=r"pip install 'context-research\[simulated\]'"):
        steps_of("h200")


@needs_aiconfigurator
@pytest.mark.parametrize(
    ("batch", "measured"),
    [
        (prefill(1_024), 26.5e-3),
        (prefill(4_096), 95.9e-3),
        (decode(1, 1_024), 5.22e-3),
        (decode(1, 4_096), 5.38e-3),
        (decode(1, 32_768), 6.39e-3),
    ],
)
def test_aiconfigurator_is_near_what_an_h200_took(batch, measured):
    """docs/results/h200-first-look, aggregated, one request at a time."""
    assert 0.8 * measured < steps_of("h200").of(batch).seconds < 1.05 * measured


@needs_aiconfigurator
def test_a_long_prompt_in_chunks_takes_what_it_takes_whole():
    steps = steps_of("h200")
    chunks = sum(steps.of(prefill(8_192, before)).seconds for before in range(0, 32_768, 8_192))
    assert chunks == pytest.approx(steps.of(prefill(32_768)).seconds, rel=0.03)
    assert 0.9 * 1.228 < chunks < 1.228


@needs_aiconfigurator
def test_unequal_prefills_are_charged_their_own_attention():
    """The last 100 tokens of one prompt with the first 8,000 of another: 35 M pairs, of their means 138 M."""
    steps = steps_of("h200")
    apart = steps.of(prefill(8_000)).seconds
    assert apart < steps.of(Batch.of([(100, 30_000), (8_000, 0)])).seconds < 1.1 * apart


@pytest.mark.parametrize(
    "scheduled",
    [
        *([(8192, 0)], [(8192, 24576)], [(4096, 0)] * 2, [(4096, 4096)] * 2, [(8, 0)] * 3, [(100, 30000), (8000, 0)]),
        *([(1000, 0), (2, 0)], [(10, 0), (8000, 0)], [(2, 1)], [(500, 0), (600, 0), (7000, 9000)]),
    ],
    ids=str,
)
def test_equal_prefills_have_the_batch_s_pairs(scheduled):
    batch = Batch.of(scheduled)
    requests, kv = aiconfigurator.prefill_as_equals(batch)
    tokens = batch.prefill_tokens
    assert 1 <= requests <= batch.prefill_requests
    assert tokens * kv / requests + tokens * (tokens / requests + 1) / 2 == pytest.approx(batch.prefill_pairs, rel=0.01)


@needs_aiconfigurator
@pytest.mark.parametrize(
    ("batch", "extrapolated"),
    [
        (prefill(16_384), False),
        (prefill(16_385), True),
        (prefill(8_192, 8_192), False),
        (prefill(8_192, 16_384), True),
        (decode(8, 65_535), False),
        (decode(1, 65_537), True),
        (decode(64, 8_193), True),
    ],
)
def test_beyond_what_was_measured_aiconfigurator_extrapolates(batch, extrapolated):
    assert steps_of("h200").of(batch).extrapolated is extrapolated


@needs_aiconfigurator
def test_aiconfigurator_s_scale_and_overhead():
    base = profiles.load("h200")
    scaled = base.model_copy(update={"step_time": base.step_time.model_copy(update={"scale": 2.0, "overhead_s": 1.0})})
    seconds = model_of(base, qwen(), placement(cores=(0,))).of(prefill(512)).seconds
    steps = model_of(scaled, qwen(), placement(cores=(0,)))
    assert steps.of(prefill(512)).seconds == pytest.approx(2 * seconds + 1)
    assert steps.describe()["kernels"] == "vllm 0.24.0"


@needs_aiconfigurator
@pytest.mark.parametrize(
    ("model", "cores", "problem"),
    [
        (lambda: resolve_model(dtype="float32"), (0,), "float32"),
        (qwen, (0, 1, 2), "divisible by tp_size 3"),
        (lambda: Model(ModelSettings(name="no/such"), None, qwen().config, None, "0" * 64), (0,), "no/such"),
    ],
    ids=["dtype", "devices", "model"],
)
def test_what_aiconfigurator_can_t_estimate_is_one_line(model, cores, problem, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageProblem, match=problem) as raised:
        model_of(profiles.load("h200"), model(), placement(cores=cores))
    assert "\n" not in str(raised.value)


@needs_aiconfigurator
def test_an_unknown_system_is_told_with_those_there_are():
    base = profiles.load("h200")
    wrong = base.model_copy(update={"step_time": base.step_time.model_copy(update={"system": "h9000"})})
    with pytest.raises(UsageProblem, match=r"'h9000', only of a100_sxm, .*h200_sxm"):
        model_of(wrong, qwen(), placement(cores=(0,)))


@needs_aiconfigurator
def test_the_command_lists_profiles_and_coverage():
    told = CliRunner().invoke(cli.main, ["device-profiles"])
    assert told.exit_code == 0, told.output
    assert all(f"{name}: " in told.output for name in SHIPPED)
    assert "h200_sxm (vllm 0.24.0): " in told.output
    assert "Qwen/Qwen3-8B" in told.output


def test_the_command_says_how_to_get_the_package(monkeypatch):
    monkeypatch.setattr(aiconfigurator, "installed", lambda: None)
    assert "pip install 'context-research[simulated]'" in CliRunner().invoke(cli.main, ["device-profiles"]).output
