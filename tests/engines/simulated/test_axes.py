"""A further axis by YAML alone: cases, rows, report columns, verdicts; engines of its own where it takes those."""

import json

import pytest
import yaml

from context_research.compare import comparison, verdict
from context_research.records.files import RunFiles
from context_research.report import comparison as comparison_report
from context_research.settings.schema import CONFIGS
from tests.support.artifacts import plain

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
SMALL = ("--seed=0", "--device-profile=cpu-2core", "--prompt-lengths=64", "--concurrency=1", "--requests=8")


@pytest.fixture
def run(suite):
    """Runs E0 with axes that a YAML file adds."""

    def run(axes, *options, name="mine"):
        tree = yaml.safe_load((CONFIGS / "experiments" / "e0_smoke.yaml").read_text())
        (suite.path / "more.yaml").write_text(yaml.safe_dump(tree | {"axes": axes}))
        more = ("--experiment-config=more.yaml", "--warmup-requests=0", f"--run-id={name}")
        return suite.inside(*SMALL, *more, *options), RunFiles(suite.path / "outputs", name)

    return run


def test_a_setting_varied_by_yaml_has_cases_rows_columns_and_verdicts(run, suite):
    axes, runs = {"workload.output_tokens": [4, 8]}, []
    for mode in ("aggregated", "disaggregated"):
        result, files = run(axes, f"--serving={mode}", "--repeats=6", name=mode)
        result.assert_outcomes(passed=2)
        runs.append(comparison.load(files))
    named = ["p64-c1-output_tokens_4", "p64-c1-output_tokens_8"]
    assert list(runs[0].cases) == named
    lines = [json.loads(line) for line in files.requests.read_text().splitlines()]
    tokens = {line["case"]: len(line["token_ids"]) for line in lines if "token_ids" in line}
    assert tokens == {named[0]: 4, named[1]: 8}
    report = [[cell.strip() for cell in line.split("|")[1:-1]] for line in files.report.read_text().splitlines()]
    header = next(cells for cells in report if cells[:1] == ["case"])
    assert header[:5] == ["case", "prompt tokens", "concurrency", "output tokens", "status"]
    assert [named[1], "64", "1", "8", "passed"] in [cells[:5] for cells in report]
    saved = sorted((suite.path / ".benchmarks").glob("*/*.json"))
    rows = json.loads(saved[0].read_text())["benchmarks"]
    for case, count in zip(named, (4, 8), strict=True):
        assert any(f"::ttft {case}" in row["fullname"] or case in row["fullname"] for row in rows)
        assert any(f"{count} out" in row["fullname"] for row in rows if case in row["fullname"])
    judged = verdict.judge(comparison.of_runs(*runs))
    assert {found.pairs.case for found in judged.primary} == set(named)
    assert all(found.ratio for found in judged.primary)
    assert named[1] in comparison_report.write(judged).read_text()


def test_a_setting_of_the_engines_starts_them_anew(run):
    result, files = run({"engine.max_num_batched_tokens": [32, 128]}, "--repeats=1", "--output-tokens=2")
    result.assert_outcomes(passed=2)
    engines = plain(files.metadata, "run_metadata")["engines"]
    assert [engine["vllm_config"]["scheduler"]["max_num_batched_tokens"] for engine in engines] == [32, 128]
    few, many = comparison.load(files).cases.values()
    # A prompt of 64 tokens in chunks of 32 takes one step more, in each of 8 requests.
    assert few.simulation.steps == many.simulation.steps + 8


def test_a_parameter_that_the_test_does_not_take_is_told(run):
    result, files = run({"think_time": [0, 1]})
    result.stdout.fnmatch_lines(["axes.think_time: neither a setting (a dotted key) nor an argument of test_e0"])
    assert not files.folder.exists()


def test_a_wrong_axis_is_told_before_anything_runs(run):
    result, files = run({"workload.output_token": [1]})
    result.stderr.fnmatch_lines(["ERROR: axes.workload.output_token: unknown key; allowed here: *"])
    assert not files.folder.exists()
