"""A real A/B of three arms, killed in its second session: nothing is left running, and the same command goes on."""

import subprocess
import sys

import psutil

from context_research.records.files import AbFiles, RunFiles
from tests.support.artifacts import plain
from tests.support.processes import ended, wait_for
from tests.support.suite import SMALL


def command(*options):
    return [
        sys.executable,
        *("-m", "context_research.cli", "ab", "e0", "--pairs=1", *options, "--primary=ttft,e2e", "--"),
        *(option for option in SMALL if not option.startswith(("--repeats", "--concurrency", "--requests"))),
        *("--concurrency=1", "--requests=8"),
    ]


THREE = command(
    *("--arm", "whole=aggregated"),
    *("--arm", "chunk=aggregated --set engine.max_num_batched_tokens=512"),
    *("--arm", "split=disaggregated"),
)


def driver():
    return subprocess.Popen(THREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_ab_leaves_nothing_running_and_is_gone_on_with(suite):
    outputs = suite.path / "outputs"

    def record():
        return next((plain(path, "ab") for path in outputs.glob("ab/*/ab.json")), None)

    first = driver()
    try:
        wait_for(lambda: first.poll() is not None or record(), "the record")
        second = subprocess.run(THREE, capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode == 2
        assert "of the same plan is running now" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        wait_for(lambda: first.poll() is not None or second_engine_starts(outputs, record()), "the second session")
        assert first.poll() is None
        children = psutil.Process(first.pid).children(recursive=True)
        assert children
    finally:
        first.kill()
        told = first.communicate()[0]
    assert ended(children), told
    killed = record()
    assert [session["status"] for session in killed["sessions"]] == ["completed", "running", "planned"]

    resumed = driver()
    told = resumed.communicate(timeout=180)[0]
    assert resumed.returncode == 0, told
    assert f"resuming {killed['ab_id']}: 1 of 3 sessions are there" in told.splitlines()
    whole = record()
    assert (whole["status"], whole["reason"]) == ("completed", None)
    assert [session["status"] for session in whole["sessions"]] == ["completed"] * 3
    before, after = ([session["run_id"] for session in each["sessions"]] for each in (killed, whole))
    assert (before[0], before[1] == after[1]) == (after[0], False)
    chosen = [plain(RunFiles(outputs, run_id).metadata, "run_metadata") for run_id in after]
    assert [run["settings"]["engine"]["max_num_batched_tokens"] for run in chosen] == [None, 512, None]
    judged = plain(AbFiles(outputs, whole["ab_id"]).verdict, "verdict")
    assert {(each["arm"], each["metric"], each["outcome"]) for each in judged["primary"]} == {
        (arm, metric, "undecided") for arm in ("chunk", "split") for metric in ("ttft", "e2e")
    }
    assert [(side["label"], *side["runs"]) for side in judged["sides"]] == [
        ("whole (1 engine)", after[0]),
        ("chunk (1 engine)", after[1]),
        ("split (1P1D)", after[2]),
    ]
    assert AbFiles(outputs, whole["ab_id"]).report.is_file()


def test_two_arms_side_by_side_have_cores_of_their_own_and_one_parity_reference(suite):
    side_by_side = command("--device-groups=0;1", "--baseline=aggregated", "--candidate=aggregated")
    told = subprocess.run(side_by_side, capture_output=True, text=True, check=False, timeout=300)
    assert told.returncode == 0, told.stdout + told.stderr
    outputs = suite.path / "outputs"
    (path,) = outputs.glob("ab/*/ab.json")
    sessions = plain(path, "ab")["sessions"]
    runs = [RunFiles(outputs, session["run_id"]) for session in sessions]
    one, other = (plain(run.metadata, "run_metadata") for run in runs)
    assert [run["engines"][0]["devices"] for run in (one, other)] == [[0], [1]]
    assert max(one["started"], other["started"]) < min(one["finished"], other["finished"]), "they ran in turn"
    (reference,) = {parity(run) for run in runs}
    assert sum(run.run_id in reference for run in runs) == 1


def parity(files):
    """Against whose reference the run's one case was held."""
    (case,) = plain(files.summary("e0"), "summary")["cases"]
    (check,) = [check for check in case["validity"] if check["check"] == "parity"]
    assert check["status"] == "pass"
    return check["evidence"].partition(" alone, in ")[2]


def second_engine_starts(outputs, record):
    """The engine's log is made as it starts."""
    run_id = record["sessions"][1]["run_id"]
    return run_id and list(RunFiles(outputs, run_id).logs.glob("*.log"))
