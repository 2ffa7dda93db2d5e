"""Fidelity with simulated engines: a run whose truth is a known profile, held against it and against planted errors."""

import itertools
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from context_research.backends.registry import backend_of
from context_research.cli import main as cli
from context_research.measure.case import measure
from context_research.measure.metrics import METRICS
from context_research.models import hub
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.requests import FileRecord
from context_research.serving import build
from context_research.settings.options import SIMULATED_OPT_IN
from context_research.settings.schema import CONFIGS
from context_research.workload.case import cases, engine_settings, point
from tests.support import made
from tests.support.artifacts import keep, plain
from tests.support.settings import tolerant

CASES = ((64, 1), (256, 2))
WORKLOAD = {
    "workload__prompt_lengths": [64, 256],
    "workload__concurrency": [1, 2],
    "workload__requests": 10,
    "workload__repeats": 1,
    "workload__output_tokens": 8,
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Runs `aggregated` and `disaggregated`, served by simulated engines and recorded as real ones'."""
    folder = tmp_path_factory.mktemp("fidelity")
    for mode in ("aggregated", "disaggregated"):
        settings = tolerant(mode, backend="simulated", device_profile="cpu-2core", **WORKLOAD)
        record(RunFiles(folder, mode), settings, [point(settings, *each) for each in CASES])
    return folder


def record(files, chosen, of):
    model, measured, engines = hub.resolve(chosen.model), [], []
    for _, alike in itertools.groupby(of, lambda case: engine_settings(case.settings)):
        alike = list(alike)
        topology = build.with_logs(backend_of(alike[0].settings), model, files.logs)
        topology.start()
        for case in alike:
            result = measure(case, model, topology)
            assert result.failure is None
            measured.append(result.record(METRICS).model_dump(mode="json"))
            store.append_lines(files.requests, [*result.windows(), *result.requests()])
        engines += [engine.describe() for engine in topology.engines]
        topology.close()
    settings = chosen.model_dump(mode="json") | {"backend": "vllm", "device_profile": None}
    metadata = made.metadata(files.run_id, status="completed", settings=settings, engines=engines)
    metadata |= {"serving": {"mode": chosen.serving.mode}, "seed": chosen.seed}
    metadata["environment_manifest"]["machine"]["cpu"]["cores"] = [0, 1]
    keep(files.metadata, "run_metadata", metadata)
    shared = ("status", "experiment", "backend", "device", "seed", "serving", "model")
    summary = made.summary(files.run_id, measured, **{key: metadata[key] for key in shared})
    summary["requests_file"] = FileRecord.of(files.requests).model_dump()
    keep(files.summary("e0"), "summary", summary)


@pytest.fixture
def fidelity(outputs, monkeypatch):
    monkeypatch.setenv(SIMULATED_OPT_IN, "1")

    def told(*arguments):
        result = CliRunner().invoke(cli.main, ["fidelity", *map(str, arguments), "--outputs", str(outputs)])
        assert result.exit_code == 0, result.output
        (path,) = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("report ")]
        return plain(Path(path).with_suffix(".json"), "fidelity")

    return told


def planted(folder, change):
    """The shipped profile, something in it changed."""
    tree = yaml.safe_load((CONFIGS / "devices" / "cpu-2core.yaml").read_text())
    change(tree)
    path = folder / "planted.yaml"
    path.write_text(yaml.safe_dump(tree | {"name": "planted"}))
    return path


def test_the_profile_that_is_the_truth_has_no_error(fidelity):
    found = fidelity("aggregated", "disaggregated", "--device-profile", "cpu-2core")
    assert len(found["figures"]) == 16
    for figure in found["figures"]:
        p50 = figure["statistic"] == "p50"
        assert (figure["error"], figure["passed"]) == ((0.0, True) if p50 else (None, None)), figure
    assert all(part["real"] == part["simulated"] for part in found["waterfall"])
    assert all(sign["same_sign"] and sign["real"] == sign["simulated"] for sign in found["signs"])
    assert len(found["signs"]) == 4


def test_cases_with_engines_of_their_own_are_simulated_on_such(outputs, fidelity):
    load = WORKLOAD | {"workload__prompt_lengths": [256], "workload__concurrency": [2]}
    axes = {"engine.max_num_batched_tokens": [64, 512]}
    settings = tolerant(backend="simulated", device_profile="cpu-2core", axes=axes, **load)
    record(RunFiles(outputs, "chunks"), settings, cases(settings))
    found = fidelity("chunks", "--device-profile", "cpu-2core")
    ttft = [each for each in found["figures"] if (each["metric"], each["statistic"]) == ("ttft", "p50")]
    assert [each["case"] for each in ttft] == [f"p256-c2-max_num_batched_tokens_{size}" for size in (64, 512)]
    assert [each["error"] for each in ttft] == [0.0, 0.0]
    assert ttft[0]["real"] > 1.1 * ttft[1]["real"]


def test_a_slower_model_is_seen_with_its_sign_and_size(fidelity, tmp_path):
    def slower(tree):
        for fit in tree["step_time"]["fits"]:
            fit["coefficients"] = {name: 1.2 * value for name, value in fit["coefficients"].items()}

    found = fidelity("aggregated", "--device-profile", planted(tmp_path, slower))
    tpot = next(one for one in found["figures"] if (one["case"], one["metric"]) == ("p64-c1", "tpot"))
    assert tpot["error"] == pytest.approx(0.2, abs=1e-4)
    assert tpot["passed"] is False


def test_a_slower_link_is_seen_in_its_own_part(fidelity, tmp_path):
    def slower(tree):
        tree["link"]["latency_s"] += 0.01

    found = fidelity("disaggregated", "--device-profile", planted(tmp_path, slower))
    parts = {one["part"]: one["simulated"] - one["real"] for one in found["waterfall"] if one["case"] == "p64-c1"}
    assert parts.pop("handoff") == pytest.approx(0.01, abs=1e-5)
    assert all(abs(difference) < 1e-5 for difference in parts.values())
    errors = {one["metric"]: one for one in found["figures"] if one["case"] == "p64-c1" and one["error"] is not None}
    assert errors["ttft"]["error"] * errors["ttft"]["real"] == pytest.approx(0.01, abs=1e-5)
    assert errors["tpot"]["error"] == pytest.approx(0.0, abs=1e-9)
