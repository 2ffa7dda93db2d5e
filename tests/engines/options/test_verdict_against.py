"""--verdict-against RUN: a finished run is held against an earlier one, and the session fails if it is worse."""

import json
import shutil

import pytest

from context_research.records.store import SCHEMA_VERSION
from tests.support.artifacts import metadata
from tests.support.suite import SMALL

FEW = ("--seed=0", *SMALL, "--concurrency=1", "--requests=8", "--repeats=2")
ENOUGH = (*FEW, "--repeats=6")


def faster(folder, factor=3.0):
    """Make an earlier run one that no machine repeats."""
    path = folder / "e0_summary.json"
    summary = json.loads(path.read_text())
    for repeat in (repeat for case in summary["cases"] for repeat in case["repeats"]):
        for name in ("ttft", "tpot"):
            repeat["metrics"][name]["p50"] /= factor
    path.write_text(json.dumps(summary))


@pytest.fixture
def run(suite, aggregated):
    return lambda *options: suite.inside(*options, lend=[aggregated])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the folder of the run `mine` is kept, once there is one."""
    return tmp_path_factory.mktemp("earlier") / "mine"


@pytest.fixture
def earlier(kept, run, suite):
    """The folder of a finished run, `mine`, with these options: FEW."""
    if not kept.is_dir():
        assert run(*FEW, "--run-id=mine").ret == 0
        shutil.copytree(suite.run, kept)
        return suite.run
    return shutil.copytree(kept, suite.path / "outputs" / "runs" / "mine")


def test_fewer_than_six_repeats_decide_nothing(run, suite, earlier):
    faster(earlier)
    result = run(*FEW, "--verdict-against=mine")
    assert result.ret == 0
    result.stdout.fnmatch_lines([
        "*context-research: verdict against mine*",
        "TTFT *p64-c1*undecided*",
        "*, 2 pairs: TTFT undecided (fewer than 6 pairs decide nothing). TPOT undecided *",
    ])  # fmt: skip
    assert metadata(suite.runs[-1])["exit_status"] == 0


def test_a_run_that_is_worse_fails_and_one_after_it_is_held_against_the_last(run, suite):
    assert run(*ENOUGH).ret == 0
    faster(suite.run)
    worse = run(*ENOUGH, "--verdict-against=latest")
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    worse.stdout.fnmatch_lines(["TTFT *p64-c1*worse*", "TPOT *p64-c1*worse*"])
    worse.assert_outcomes(passed=1)
    second = metadata(suite.runs[-1])
    assert (second["status"], second["exit_status"]) == ("completed", 1)
    # `latest` is the run before, not the first one, and never the run itself.
    third = run(*ENOUGH, "--verdict-against=latest", "--start-noise=50%")
    third.stdout.fnmatch_lines([f"*verdict against {second['run_id']}*"])
    assert third.ret == 0


def test_a_folder_names_an_earlier_run(run, earlier):
    result = run(*FEW, f"--verdict-against={earlier}", "--outputs=elsewhere")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*TTFT undecided *"])


def test_a_run_that_cannot_be_compared_is_no_pass(run, suite, earlier):
    result = run(*FEW, "--output-tokens=3", "--verdict-against=latest")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *and this run differ in what matters: workload.output_tokens: 4 / 3"])
    assert len(suite.runs) == 1, "refused before anything started"


def test_a_run_whose_repeats_were_disabled_is_told_in_one_line(run, suite, earlier):
    result = run(*FEW, "--benchmark-disable", "--verdict-against=latest")
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert metadata(suite.runs[-1])["status"] == "completed"


def test_with_xdist_the_controller_judges(suite, run):
    """Refused names only: workers have engines of their own."""
    result = run(*FEW, "--verdict-against=none", "-n1")
    result.stderr.fnmatch_lines(["ERROR: no run in *"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def _schema(found):
    found["schema_version"] = SCHEMA_VERSION + 1


def _failed(found):
    found["status"] = "failed"


def _seed(found):
    found["seed"] = 1


def _simulated(found):
    found["backend"] = "simulated"


def _fine(found): ...


@pytest.mark.parametrize(
    ("change", "name", "line"),
    [
        (_fine, "none", "no run 'none' in *; the newest is mine"),
        (_failed, "mine", "run mine is in no comparison: its status is failed*"),
        (_failed, "latest", "none of the 1 runs in * completed*"),
        (_schema, "mine", f"*run_metadata.json has schema version {SCHEMA_VERSION + 1}, this version reads*"),
        (_seed, "mine", "--verdict-against mine: its seed is 1, this run's 0"),
        (_simulated, "mine", "--verdict-against mine: its backend is simulated, this run's vllm"),
    ],
    ids=["unknown", "failed", "none completed", "from the future", "another seed", "simulated"],
)
def test_a_bad_name_is_refused_before_any_engine_starts(suite, earlier, change, name, line):
    found = metadata(earlier)
    change(found)
    (earlier / "run_metadata.json").write_text(json.dumps(found))
    result = suite.inside(*FEW, f"--verdict-against={name}")
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [folder.name for folder in suite.runs] == ["mine"]


def test_no_run_at_all_is_told(suite):
    result = suite.inside(*FEW, "--verdict-against=latest")
    result.stderr.fnmatch_lines(["ERROR: no run in *: start one with *"])


def test_start_noise_must_be_a_share(suite):
    result = suite.inside(*FEW, "--verdict-against=latest", "--start-noise=much")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--start-noise" in result.stderr.str()


def test_nothing_is_judged_where_nothing_runs(run, suite):
    result = run(*FEW, "--verdict-against=none", "--collect-only")
    assert result.ret == 0
