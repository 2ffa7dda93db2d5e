"""Calibration: coefficients found again in noisy steps, a profile from runs' folders, and every refusal."""

import copy
import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner

from context_research.cli import main as cli
from context_research.engines.batch import Batch
from context_research.engines.simulated import profiles
from context_research.engines.simulated.step_time import aiconfigurator, model_of
from context_research.engines.simulated.step_time.linear import FEATURES
from context_research.fidelity.fit import fit
from tests.support import made, made_runs
from tests.support.artifacts import plain
from tests.support.made import GPUS, MACHINE
from tests.support.settings import chosen, placement, resolve_model

PLANTED = {
    "constant": 5e-3,
    "prefill_tokens": 4e-5,
    "prefill_pairs": 5e-8,
    "decode_requests": 3e-4,
    "decode_kv_tokens": 1e-6,
}
HEADER = "done,seconds,prefill_requests,prefill_tokens,prefill_kv_tokens,prefill_pairs,decode_requests,decode_kv_tokens"


def batches(count=600, seed=0):
    """One step in five prefills, alone or with decodes: as engines go."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        decodes = [(1, int(generator.integers(100, 4000)))] * int(generator.integers(1, 5))
        prefills = [(int(generator.integers(64, 2048)), int(generator.choice([0, 1024])))]
        yield Batch.of(decodes if number % 5 else prefills + decodes * int(generator.integers(0, 2)))


def columns_of(several):
    return np.array([[1.0, *(getattr(batch, name) for name in FEATURES[1:])] for batch in several])


def planted(several, noise=0.05, seed=1):
    seconds = columns_of(several) @ list(PLANTED.values())
    return seconds * np.random.default_rng(seed).lognormal(0, noise, len(seconds))


def write_steps(files, engine, several, seconds, done=None):
    done = np.cumsum(seconds) if done is None else done
    rows = [
        f"{end},{taken},{','.join(str(getattr(batch, name)) for name in HEADER.split(',')[2:])}"
        for end, taken, batch in zip(done, seconds, several, strict=True)
    ]
    path = files.folder / "steps" / f"{engine}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([HEADER, *rows]) + "\n")


def run(outputs, run_id, serving="aggregated", *, machine=MACHINE, steps=True, lines=True, model=None, **values):
    """A real run's folder with planted steps: prompts of 64 and 512 tokens, a case of one request in flight each."""
    model = model or resolve_model(dtype="float32")
    named = {"name": model.settings.name, "weights": model.settings.weights, "revision": None}
    named |= {"hash": model.weights_hash, "label": model.label}
    roles = [("aggregated", [0, 1])] if serving == "aggregated" else [("prefill", [0]), ("decode", [1])]
    if machine is GPUS:
        roles = [(role, [0]) for role, _ in roles]
    engines = [made.engine(name=role, role=role, devices=devices) for role, devices in roles]
    settings = chosen(serving, model__dtype=model.settings.dtype, model__name=model.settings.name)
    settings = settings.model_dump(mode="json") | {"device": "cuda" if machine is GPUS else "cpu"}
    manifest = made.metadata()["environment_manifest"]
    manifest |= {"machine": copy.deepcopy(machine), "versions": manifest["versions"] | {"vllm": "0.24.0"}}
    given = {"settings": settings, "engines": engines, "environment_manifest": manifest, "model": named} | values
    figures = {"p64-c1": {"ttft": [0.1], "tpot": [0.01]}, "p512-c1": {"ttft": [0.1], "tpot": [0.01]}}
    files = made_runs.run(outputs, run_id, figures, serving=serving, requests=12, **given)
    if lines:
        rewrite_requests(files, serving)
    if steps:
        for role, _ in roles:
            several = list(batches())
            if role == "prefill":
                several = [Batch.of([(size, 0)]) for size in (64, 512, 700, 1500)] * 100
            if role == "decode":
                several = [batch for batch in several if not batch.prefill_tokens]
            write_steps(files, role, several, planted(several))
    return files


def rewrite_requests(files, serving):
    """Submit 1 ms + 2 µs a token, deliver 0.5 ms, a KV read 3 ms + 10 µs a token of its blocks."""
    records = [json.loads(line) for line in files.requests.read_text().splitlines()]
    for record in records:
        if record["kind"] != "request":
            continue
        tokens, blocks = record["prompt_tokens"], -(-record["prompt_tokens"] // 128)
        first = record["legs"][0] | {"sent": 1.0, "queued": 1.0 + 1e-3 + 2e-6 * tokens, "first_token": 2.0}
        record |= {"legs": [first], "token_times": [2.0005, 2.1], "output_tokens_asked": 2}
        if serving == "disaggregated":
            second = first | {"engine": "decode", "role": "decode", "first_token": 3.0}
            second |= {"read_started": 2.0, "read_finished": 2.003 + 1e-5 * blocks * 128}
            record |= {"legs": [first | {"role": "prefill"}, second], "token_times": [3.0005, 3.1]}
    files.requests.write_text("".join(json.dumps(record) + "\n" for record in records))
    made_runs.rehashed(files)


def calibrate(outputs, *arguments, path="made.yaml", fails=False):
    given = [*map(str, arguments), "--write", str(outputs / path), "--outputs", str(outputs)]
    told = CliRunner().invoke(cli.main, ["calibrate", *given])
    assert told.exit_code == (2 if fails else 0), told.output
    if fails:
        assert told.output.count("\n") == 1, told.output
        return told.output
    return profiles.load(str(outputs / path))


def test_planted_coefficients_are_found_again():
    several = list(batches(2000))
    found = fit(columns_of(several), planted(several)).coefficients
    assert found == pytest.approx(list(PLANTED.values()), rel=0.12)


def test_hiccups_are_left_out_and_counted():
    several = list(batches(2000))
    seconds = planted(several)
    seconds[::50] *= 40
    fitted = fit(columns_of(several), seconds)
    assert fitted.coefficients == pytest.approx(list(PLANTED.values()), rel=0.12)
    assert fitted.residuals["hiccups"] == pytest.approx(0.02)
    assert fitted.residuals["hiccup_time"] > 0.4


def test_the_mean_is_kept_however_skewed_the_steps_are():
    """As on a shared CPU: most steps near the best, and a tail up to three times that."""
    several = list(batches(2000))
    seconds = planted(several, noise=0) * (1 + np.random.default_rng(2).exponential(0.3, 2000).clip(max=2))
    fitted = fit(columns_of(several), seconds)
    assert abs(fitted.residuals["mean_error"]) < 0.01
    assert np.mean(seconds / (columns_of(several) @ fitted.coefficients)) == pytest.approx(1, abs=1e-3)


def test_coefficients_are_never_negative():
    several = list(batches())
    seconds = 1e-2 - 1e-6 * np.array([batch.decode_kv_tokens / 4 for batch in several])
    assert (fit(columns_of(several), seconds).coefficients >= 0).all()


def test_nothing_to_fit():
    with pytest.raises(ValueError, match="nothing to fit"):
        fit(np.empty((0, 2)), np.empty(0))


def test_two_modes_make_one_profile(tmp_path):
    run(tmp_path, "agg")
    run(tmp_path, "dis", "disaggregated")
    profile = calibrate(tmp_path, "agg", "dis")
    assert (profile.name, profile.device, profile.count, profile.memory_bytes) == ("made", "cpu", 2, 8 << 30)
    assert profile.calibrated
    model = resolve_model(dtype="float32")
    truth = Batch.of([(512, 0), (1, 2000)])
    aggregated = model_of(profile, model, placement())
    assert aggregated.of(truth).seconds == pytest.approx(
        float((columns_of([truth]) @ list(PLANTED.values()))[0]), rel=0.05
    )
    assert not aggregated.of(truth).extrapolated
    for number, role in enumerate(("prefill", "decode")):
        steps = model_of(profile, model, placement("disaggregated", number))
        assert steps.describe()["role"] == role
    assert steps.of(truth).extrapolated
    assert profile.client.submit_s == pytest.approx(1e-3, rel=0.01)
    assert profile.client.submit_token_s == pytest.approx(2e-6, rel=0.01)
    assert profile.client.deliver_s == pytest.approx(5e-4, rel=0.01)
    assert profile.link.latency_s == pytest.approx(3e-3, rel=0.01)
    assert profile.link.bandwidth == pytest.approx(model.kv_bytes_per_token / 1e-5, rel=0.01)
    fits = profile.step_time.fits
    assert {one.runs for one in fits} == {("agg",), ("dis",)}
    assert all(one.residuals.keys() >= {"p5", "p50", "p95", "mean_error", "hiccups"} for one in fits)


def test_runs_of_one_mode_are_put_together(tmp_path):
    for run_id in ("one", "two", "dis"):
        run(tmp_path, run_id, "disaggregated" if run_id == "dis" else "aggregated")
    fits = calibrate(tmp_path, "one", "two", "dis").step_time.fits
    assert [one.runs for one in fits if one.role == "aggregated"] == [("one", "two")]


def test_a_base_gives_what_the_runs_can_t_say(tmp_path):
    run(tmp_path, "dis", "disaggregated")
    base = calibrate(tmp_path, "dis", path="base.yaml")
    run(tmp_path, "agg")
    profile = calibrate(tmp_path, "agg", "--device-profile", tmp_path / "base.yaml")
    assert profile.link == base.link
    assert "device profile base" in profile.provenance["link"]
    assert [one.role for one in profile.step_time.fits] == ["aggregated", "prefill", "decode"]


def test_of_one_prompt_length_the_base_s_line_is_scaled_whole(tmp_path):
    run(tmp_path, "both", "disaggregated")
    base = calibrate(tmp_path, "both", path="base.yaml")
    files = run(tmp_path, "one", "disaggregated")
    lines = [json.loads(line) for line in files.requests.read_text().splitlines() if '"p512-c1"' in line]
    for record in lines:  # half as fast in everything that the base says of a prompt of 512 tokens
        if record["kind"] == "request":
            first, second = record["legs"]
            first["queued"] = first["sent"] + 2 * (1e-3 + 2e-6 * 512)
            second["read_finished"] = second["read_started"] + 2 * (3e-3 + 1e-5 * 512)
    files.requests.write_text("".join(json.dumps(record) + "\n" for record in lines))
    made_runs.rehashed(files)
    profile = calibrate(tmp_path, "one", "--device-profile", tmp_path / "base.yaml")
    for tokens in (128, 512, 4096):
        size = tokens * resolve_model(dtype="float32").kv_bytes_per_token
        assert profile.link.seconds(size, 8) == pytest.approx(2 * base.link.seconds(size, 8), rel=0.01)
        assert profile.client.to_engine_s(tokens) == pytest.approx(2 * base.client.to_engine_s(tokens), rel=0.01)
    assert profile.client.deliver_s == pytest.approx(5e-4, rel=0.01)
    for what in ("link", "client"):
        assert "all of one prompt length, so 2 × device profile base" in profile.provenance[what]


@pytest.mark.skipif(aiconfigurator.installed() is None, reason="aiconfigurator-core is not installed")
def test_of_aiconfigurator_scale_and_overhead_are_fitted(tmp_path):
    model = resolve_model("Qwen/Qwen3-8B", dtype="bfloat16")
    files = run(tmp_path, "gpu", "disaggregated", machine=GPUS, steps=False, model=model)
    steps = model_of(profiles.load("h200"), model, placement(cores=(0,)))
    for role, several in (
        ("prefill", [Batch.of([(size, 0)]) for size in (512, 1024, 4096, 8192)] * 10),
        ("decode", [Batch.of([(1, before)] * many) for many in (1, 4, 8) for before in (512, 4096)] * 10),
    ):
        seconds = np.array([1.1 * steps.of(batch).seconds + 7e-4 for batch in several])
        # One GPU for both: one engine after the other.
        write_steps(files, role, several, seconds, np.cumsum(seconds) + (100 if role == "decode" else 0))
    profile = calibrate(tmp_path, "gpu", "--device-profile", "h200")
    assert profile.step_time.scale == pytest.approx(1.1, rel=1e-3)
    assert profile.step_time.overhead_s == pytest.approx(7e-4, rel=1e-2)
    assert profile.step_time.calibrated == ("gpu",)
    assert profile.gpu_names == ("NVIDIA H200",)
    # What a read takes beyond the base's copy is its descriptors'.
    read = profile.link.seconds(128 * model.kv_bytes_per_token, profiles.descriptors(model, 128, 128), same_device=True)
    assert read == pytest.approx(3e-3 + 128e-5, rel=0.01)


def test_steps_that_shared_a_device_with_another_engine_s_are_left_out(tmp_path):
    files = run(tmp_path, "dis", "disaggregated", machine=GPUS, steps=False)
    several = [Batch.of([(size, 0)]) for size in (64, 512, 700, 1500)] * 10
    seconds = planted(several)
    write_steps(files, "prefill", several, seconds)
    decodes = [Batch.of([(1, 500)] * many) for many in (1, 2, 3, 4)] * 10
    taken = planted(decodes)
    # Ten after the prefills, thirty in the midst of them.
    done = np.where(np.arange(40) < 30, seconds[0] + np.cumsum(taken) * 0.01, 1000 + np.cumsum(taken))
    write_steps(files, "decode", decodes, np.where(np.arange(40) < 30, taken * 0.01, taken), done)
    fits = {one.role: one for one in calibrate(tmp_path, "dis").step_time.fits}
    assert fits["decode"].steps == 10
    assert fits["prefill"].steps < 40


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path):
    run(tmp_path, "dis", "disaggregated")
    calibrate(tmp_path, "dis")
    before = (tmp_path / "made.yaml").read_text()
    assert "exists already" in calibrate(tmp_path, "dis", fails=True)
    assert (tmp_path / "made.yaml").read_text() == before
    calibrate(tmp_path, "dis", "--force")


def test_the_file_s_name_must_be_a_yaml_file_s(tmp_path):
    run(tmp_path, "dis", "disaggregated")
    assert "ends in .yaml" in calibrate(tmp_path, "dis", path="made.json", fails=True)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"backend": "simulated"}, "is simulated: only real runs"),
        *(({"status": status}, f"is {status}") for status in ("invalid", "failed", "interrupted", "running")),
        ({"steps": False}, "has no step records of engine aggregated"),
        ({"changes": {"settings.engine.batch_invariant": True}}, "has batch-invariant kernels"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_runs_that_can_t_calibrate_are_named(tmp_path, values, told):
    run(tmp_path, "bad", **values)
    problem = calibrate(tmp_path, "bad", fails=True)
    assert "run bad" in problem
    assert told in problem


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"environment_manifest.machine.cpu.model": "Another CPU"}, "hardware is Another CPU, 2 cores"),
        ({"environment_manifest.machine.cpu.cores": [0]}, "hardware is A CPU, 1 cores"),
        ({"environment_manifest.versions.vllm": "0.23.0"}, "vLLM is 0.23.0"),
        ({"settings.engine.enforce_eager": False}, "enforce_eager is False"),
        ({"settings.engine.args": {"seed": 1}}, "engine.args is {'seed': 1}"),
        ({"settings.model.dtype": "bfloat16"}, "model is tiny-qwen3"),
        ({"engines.0.vllm_config.cache.block_size": 64}, "block size is 64"),
    ],
    ids=str,
)
def test_runs_that_differ_are_not_put_together(tmp_path, change, told):
    run(tmp_path, "one")
    run(tmp_path, "two", changes=change)
    problem = calibrate(tmp_path, "one", "two", fails=True)
    assert "run two" in problem
    assert told in problem
    assert "of run one" in problem


def test_another_model_than_the_one_that_was_served(tmp_path):
    run(tmp_path, "one", changes={"model.label": "tiny-qwen3 seeded:00000000"})
    assert "run one served tiny-qwen3 seeded:00000000" in calibrate(tmp_path, "one", fails=True)


def test_a_check_that_was_allowed_to_fail(tmp_path):
    files = run(tmp_path, "one")
    failed = [{"check": "client", "status": "fail", "evidence": "late"}]
    made_runs.edit(files.summary("e0"), "summary", cases__1__validity=failed)
    assert "run one is invalid: case p512-c1 fails client" in calibrate(tmp_path, "one", fails=True)


def test_a_run_named_twice(tmp_path):
    run(tmp_path, "one")
    assert "run one is named twice" in calibrate(tmp_path, "one", "one", fails=True)


def test_a_run_that_is_not_there(tmp_path):
    run(tmp_path, "one")
    assert "no run 'two'" in calibrate(tmp_path, "two", fails=True)


def test_no_handoff_and_no_base(tmp_path):
    run(tmp_path, "one")
    assert "add a disaggregated one" in calibrate(tmp_path, "one", fails=True)


def test_too_few_steps(tmp_path):
    files = run(tmp_path, "one", steps=False)
    several = list(itertools.islice(batches(), 4))
    write_steps(files, "aggregated", several, planted(several))
    assert "a fit needs 10" in calibrate(tmp_path, "one", fails=True)


def test_a_decode_engine_s_warm_up_does_not_price_prefill(tmp_path):
    files = run(tmp_path, "dis", "disaggregated", steps=False)
    prefills = [Batch.of([(size, 0)]) for size in (64, 512, 700, 1500)] * 100
    write_steps(files, "prefill", prefills, planted(prefills))
    several = [batch for batch in batches() if not batch.prefill_tokens] + [Batch.of([(2, 0)])] * 12
    write_steps(files, "decode", several, np.append(planted(several[:-12]), [0.02] * 12))
    fits = {one.role: one for one in calibrate(tmp_path, "dis").step_time.fits}
    assert fits["decode"].coefficients["prefill_pairs"] == 0
    assert fits["decode"].ranges["prefill_tokens"] == (0, 0)


def test_a_run_that_was_resumed_after_its_clock_began_anew(tmp_path):
    at = "2026-01-01T00:00:00+00:00"
    files = run(tmp_path, "mine", resumed=[{"stopped": at, "at": at, "after": None}])
    several = list(batches(40))
    write_steps(files, "aggregated", several, planted(several), [*range(1, 21), *range(1, 21)])
    assert "was resumed after the machine's clock had begun anew" in calibrate(tmp_path, "mine", fails=True)


def test_a_file_that_holds_no_steps(tmp_path):
    files = run(tmp_path, "one")
    (files.folder / "steps" / "aggregated.csv").write_text("a,b\n1,2\n")
    assert "aggregated.csv" in calibrate(tmp_path, "one", fails=True)


def test_a_base_of_another_device(tmp_path):
    run(tmp_path, "one")
    problem = calibrate(tmp_path, "one", "--device-profile", "h200", fails=True)
    assert "h200 is for cuda, run one ran on cpu" in problem


def test_a_base_of_another_gpu(tmp_path):
    run(tmp_path, "gpu", machine=GPUS)
    problem = calibrate(tmp_path, "gpu", "--device-profile", "h100", fails=True)
    assert "is for NVIDIA H100 80GB HBM3, run gpu ran on NVIDIA H200" in problem


def test_without_a_client_s_share_it_is_told(tmp_path):
    files = run(tmp_path, "dis", "disaggregated")
    made_runs.edit(files.summary("e0"), "summary", cases__0__axes__concurrency=2)
    records = files.requests.read_text().splitlines(keepends=True)
    kept = [line for line in records if '"p64-c1"' in line] + [line for line in records if '"p512-c1"' in line][:5]
    files.requests.write_text("".join(kept))
    made_runs.rehashed(files)
    profile = calibrate(tmp_path, "dis")
    assert profile.client.submit_s == 0
    assert "not measured" in profile.provenance["client"]


def test_made_runs_are_true_to_their_schema(tmp_path):
    assert plain(run(tmp_path, "one").metadata, "run_metadata")["status"] == "completed"
