"""What goes wrong, and going on from there."""

import json
import subprocess
import sys

import pytest

from context_research.compare.ab import arms as ab_arms
from context_research.compare.ab import sessions as ab
from context_research.compare.ab.sessions import Ab
from context_research.errors import UsageProblem
from context_research.records.files import AbFiles, RunFiles
from tests.support import made_runs
from tests.support.made_sessions import DEFAULTS, plan, recorded, run, two


def test_a_failing_session_stops_it_and_is_named_with_its_log(outputs, sessions):
    sessions.before = lambda number: 3 if number == 2 else None
    with pytest.raises(
        UsageProblem, match=r"session 2 \(candidate\) ended with exit status 3 before it began; its log"
    ):
        run(outputs)
    record = recorded(outputs)
    assert (record["status"], [s["status"] for s in record["sessions"]][:3]) == (
        "stopped",
        ["completed", "failed", "planned"],
    )
    assert record["reason"].startswith("session 2 (candidate) ended with ")


def test_a_failing_sessions_own_reason_is_told(outputs, sessions):
    def fail(number):
        run_id = sessions.ran[-1]["run-id"]
        made_runs.run(outputs, run_id, status="error", reason="no memory")
        return 1

    sessions.before = fail
    with pytest.raises(UsageProblem, match=r"ended with exit status 1, its run error \(no memory\)"):
        run(outputs)


def test_a_session_that_ends_well_and_does_not_count_is_refused(outputs, sessions):
    def invalid(number):
        run_id = sessions.ran[-1]["run-id"]
        made_runs.run(outputs, run_id, status="incomplete")
        return 0

    sessions.before = invalid
    with pytest.raises(UsageProblem, match="is in no comparison: its status is incomplete"):
        run(outputs)
    assert recorded(outputs)["sessions"][0]["status"] == "failed"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit(143), UsageProblem("no")], ids=repr)
def test_whatever_ends_it_the_same_plan_goes_on(outputs, sessions, problem):
    def leave(number):
        if number == 3:
            raise problem

    sessions.before = leave
    with pytest.raises(BaseException) as ended:  # noqa: PT011
        run(outputs)
    assert isinstance(ended.value, (KeyboardInterrupt, SystemExit, UsageProblem))
    first = recorded(outputs)
    assert first["status"] == "stopped"
    sessions.before = lambda _: None
    said = run(outputs)
    second = recorded(outputs)
    assert said[0] == f"resuming {first['ab_id']}: 2 of 6 sessions are there"
    assert len(sessions.ran) == 3 + 4
    assert [s["run_id"] for s in second["sessions"]][:2] == [s["run_id"] for s in first["sessions"]][:2]
    assert second["sessions"][2]["run_id"] != first["sessions"][2]["run_id"]
    assert (second["status"], second["reason"]) == ("completed", None)


def test_what_was_killed_goes_on(outputs, sessions):
    run(outputs, pairs=1)
    (path,) = (outputs / "ab").glob("*/ab.json")
    made_runs.edit(path, "ab", status="running", pid=2**22 + 1)
    made_runs.cut(AbFiles(outputs, path.parent.name), 1)
    said = run(outputs, pairs=1)
    assert said[0].startswith("resuming ")
    assert recorded(outputs)["status"] == "completed"
    assert len(sessions.ran) == 3


SIX = {f"p64-c{level}": {"ttft": [0.1], "tpot": [0.01]} for level in range(1, 7)}


def stopped_amid_its_cases(outputs, sessions, **values):
    """An A/B whose second session was ended after six of its eleven cases, having worked for ten minutes."""
    part = {"status": "interrupted", "planned": 11, "cases": dict.fromkeys(SIX, "passed")} | values
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:10:00+00:00"}

    def end(number):
        if number == 2:
            given = sessions.ran[-1]
            mode, seed = given["serving"], int(given["seed"])
            files = made_runs.run(outputs, given["run-id"], SIX, serving=mode, seed=seed, **part)
            made_runs.edit(files.metadata, "run_metadata", **times)
            raise SystemExit(143)

    sessions.before, sessions.figures = end, lambda *_: SIX
    with pytest.raises(SystemExit):
        run(outputs, pairs=1)
    sessions.before = lambda _: None
    return recorded(outputs)["sessions"][1]["run_id"]


def test_a_session_that_was_stopped_amid_its_cases_goes_on_with_them(outputs, sessions):
    run_id = stopped_amid_its_cases(outputs, sessions)
    said = run(outputs, pairs=1)
    assert said[1].startswith("[2/2] pair 1, candidate: ")
    assert said[1].endswith("goes on after 6 of 11 cases")
    last = sessions.ran[-1]
    assert (last["resume"], "run-id" in last) == (run_id, False)
    session = recorded(outputs)["sessions"][1]
    assert (session["run_id"], session["status"]) == (run_id, "completed")
    assert session["seconds"] == pytest.approx(600, abs=30), "both parts"


@pytest.mark.parametrize(
    "values",
    [{"status": "error", "cases": {"p64-c2": "failed"}}, {"status": "running"}],
    ids=["a failed case", "its requests are gone"],
)
def test_a_session_that_cannot_go_on_begins_anew(outputs, sessions, values):
    run_id = stopped_amid_its_cases(outputs, sessions, **values)
    if values["status"] == "running":
        RunFiles(outputs, run_id).requests.unlink()
    said = run(outputs, pairs=1)
    assert "goes on" not in said[1]
    assert "resume" not in sessions.ran[-1]
    assert recorded(outputs)["sessions"][1]["run_id"] != run_id


def test_a_session_that_refuses_to_go_on_begins_anew(outputs, sessions):
    """Another machine, or another vLLM: it is the session that knows."""
    run_id = stopped_amid_its_cases(outputs, sessions)
    sessions.before = lambda _: 4 if "resume" in sessions.ran[-1] else None
    said = run(outputs, pairs=1)
    assert said[2].startswith("[2/2] can't go on, and begins anew: see ")
    assert ["resume" in each for each in sessions.ran] == [False, False, True, False]
    session = recorded(outputs)["sessions"][1]
    assert (session["status"], session["run_id"] == run_id) == ("completed", False)


def test_a_session_that_had_ended_well_when_the_ab_was_killed_counts(outputs, sessions):
    """Its record still says that it runs."""
    run(outputs, pairs=1)
    (path,) = (outputs / "ab").glob("*/ab.json")
    gone = {"status": "running", "pid": 2**22 + 1, "sessions__1__status": "running", "sessions__1__seconds": None}
    made_runs.edit(path, "ab", **gone)
    files = AbFiles(outputs, path.parent.name)
    assert len(ab.judge(files).comparison.baseline.units) == 1
    run_id = recorded(outputs)["sessions"][1]["run_id"]
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00"}
    made_runs.edit(RunFiles(outputs, run_id).metadata, "run_metadata", **times)
    assert run(outputs, pairs=1) == [f"resuming {files.ab_id}: 2 of 2 sessions are there"]
    [last] = recorded(outputs)["sessions"][1:]
    assert (last["status"], last["run_id"], last["seconds"]) == ("completed", run_id, 60)


@pytest.mark.parametrize(
    "changed", [{"exit_status": 1}, {"settings__engine__max_num_batched_tokens": 64}], ids=["exit status", "settings"]
)
def test_an_unnoted_session_that_would_have_been_refused_is_run_again(outputs, sessions, changed):
    run(outputs, pairs=2)
    (path,) = (outputs / "ab").glob("*/ab.json")
    run_id = recorded(outputs)["sessions"][3]["run_id"]
    made_runs.edit(path, "ab", status="running", pid=2**22 + 1, sessions__3__status="running")
    made_runs.edit(RunFiles(outputs, run_id).metadata, "run_metadata", **changed)
    said = run(outputs, pairs=2)
    assert said[0].endswith("3 of 4 sessions are there")
    assert recorded(outputs)["sessions"][3]["run_id"] != run_id


def test_an_unfinished_ab_of_before_device_groups_is_gone_on_with(outputs, sessions):
    run(outputs, pairs=1)
    (path,) = (outputs / "ab").glob("*/ab.json")
    payload = json.loads(path.read_text())
    del payload["plan"]["device_groups"]
    for session in payload["sessions"]:
        del session["devices"]
    payload["sessions"][1]["status"] = "planned"
    path.write_text(json.dumps(payload | {"status": "stopped"}))
    assert run(outputs, pairs=1)[0].endswith("1 of 2 sessions are there")
    assert recorded(outputs)["status"] == "completed"


def test_one_of_the_same_plan_that_runs_in_another_process_is_refused(outputs, sessions):
    said = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from pathlib import Path; from context_research.compare.ab import plan, sessions\n"
            "from context_research.settings.experiments import Experiment\n"
            "e0 = Experiment('e0', Path('benchmarks/e0'))\n"
            f"held = sessions.Ab.open(Path({str(outputs)!r}), plan.plan(e0, **{DEFAULTS!r}))\n"
            "print(1, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert said.stdout.readline() == b"1\n"
        with pytest.raises(UsageProblem, match="of the same plan is running now"):
            Ab.open(outputs, plan())
    finally:
        said.kill()
        said.communicate()
    Ab.open(outputs, plan())


def test_one_that_has_been_opened_and_not_yet_written_is_refused(outputs, sessions):
    """Two commands at once: whichever comes second is refused, however soon."""
    first = Ab.open(outputs, plan(pairs=1))
    with pytest.raises(UsageProblem, match="running now"):
        Ab.open(outputs, plan(pairs=1)).run(lambda _: None)
    del first


def test_fresh_begins_anew(outputs, sessions):
    sessions.before = lambda _: 1
    for _ in range(2):
        with pytest.raises(UsageProblem):
            Ab.open(outputs, plan(), fresh=True).run(lambda _: None)
    assert len(list((outputs / "ab").iterdir())) == 2


def test_one_that_is_finished_is_not_gone_on_with(outputs, sessions):
    run(outputs, pairs=1)
    run(outputs, pairs=1)
    assert len(list((outputs / "ab").iterdir())) == 2
    assert len(sessions.ran) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"pairs": 4},
        {"seed": 6},
        {"repeats": 2},
        {"arms": two("aggregated")},
        {"pytest_options": ("-k", "c1")},
        {"primary": ("tpot",)},
        {"practical": 0.1},
        {"allow_different": ("vllm",)},
    ],
    ids=str,
)
def test_another_plan_is_another_ab(outputs, sessions, other):
    sessions.before = lambda _: 1
    for values in ({}, other):
        with pytest.raises(UsageProblem):
            run(outputs, **values)
    assert len(list((outputs / "ab").iterdir())) == 2


def test_settings_that_changed_are_another_ab(outputs, sessions, monkeypatch):
    sessions.before = lambda _: 1
    for requests in ("8", "9"):
        monkeypatch.setattr(ab_arms, "from_environment", lambda value=requests: {"--requests": value})
        with pytest.raises(UsageProblem):
            run(outputs)
    assert len(list((outputs / "ab").iterdir())) == 2


def test_a_record_of_something_else_that_is_broken_is_no_obstacle(outputs, sessions):
    (outputs / "ab" / "broken").mkdir(parents=True)
    (outputs / "ab" / "broken" / "ab.json").write_text("{")
    Ab.open(outputs, plan(pairs=1)).run(lambda _: None)


def test_a_session_that_differs_from_the_first_stops_it(outputs, sessions):
    sessions.changes = lambda number: {"environment_manifest.machine.driver": "2"} if number == 2 else {}
    with pytest.raises(UsageProblem, match=r"hardware\.driver: None / 2"):
        run(outputs)
    assert len(sessions.ran) == 2
    assert [s["status"] for s in recorded(outputs)["sessions"]][:2] == ["completed", "failed"]


def test_an_allowed_difference_goes_on(outputs, sessions):
    sessions.changes = lambda number: {"environment_manifest.machine.driver": str(number % 2)}
    run(outputs, pairs=1, allow_different=("hardware.driver",))
    assert recorded(outputs)["status"] == "completed"


def test_an_arm_that_differs_in_what_matters_is_refused_before_any_session(outputs, sessions):
    """Its settings tell already; the first two sessions of a real A/B take minutes."""
    with pytest.raises(UsageProblem, match=r"model\.dtype"):
        run(outputs, arms=two("disaggregated --dtype bfloat16"))
    assert sessions.ran == []


def test_outputs_that_cannot_be_written_are_told(here, sessions):
    (here / "file").touch()
    with pytest.raises(UsageProblem, match="cannot write to the outputs folder"):
        Ab.open(here / "file", plan())


def test_finished_sessions_whose_artifacts_are_gone_are_run_again(outputs, sessions):
    sessions.before = lambda number: 1 if number == 2 else None
    with pytest.raises(UsageProblem):
        run(outputs, pairs=1)
    files = RunFiles(outputs, recorded(outputs)["sessions"][0]["run_id"])
    files.metadata.unlink()
    sessions.before = lambda _: None
    said = run(outputs, pairs=1)
    assert said[0].startswith("pair 1, baseline is run again: cannot read")
    assert files.run_id in said[0]
    assert len(sessions.ran) == 4
    assert recorded(outputs)["status"] == "completed"


def test_an_arm_whose_settings_changed_between_sessions_is_refused(outputs, sessions):
    sessions.changes = lambda number: {"settings.engine.max_num_seqs": 7} if number == 3 else {}
    with pytest.raises(UsageProblem, match=r"arm candidate: its settings changed since its first session \(engine\)"):
        run(outputs)
    assert recorded(outputs)["sessions"][2]["status"] == "failed"


def test_a_metric_that_no_session_has_is_refused_after_the_first(outputs, sessions):
    with pytest.raises(UsageProblem, match="--primary latency: no such figure; metrics: ttft, tpot;"):
        run(outputs, primary=["latency"])
    assert len(sessions.ran) == 1


def test_a_plan_with_a_secret_goes_on_and_its_record_has_none(outputs, sessions):
    """Its sessions are given it; ab.json is not, and neither is a changed token another plan."""
    sessions.before = lambda number: 3 if number == 2 else None
    arms = {"pytest_options": ("--cr-set=engine.args.hf_token=sesame-1",), "pairs": 2}
    with pytest.raises(UsageProblem):
        run(outputs, **arms)
    sessions.before = lambda _: None
    said = run(outputs, **arms | {"pytest_options": ("--cr-set=engine.args.hf_token=sesame-2",)})
    assert said[0].startswith("resuming ")
    assert "--cr-set=engine.args.hf_token=sesame-2" in sessions.ran[-1]["arguments"]
    assert "sesame" not in "".join(path.read_text() for path in outputs.rglob("ab.json"))
    assert recorded(outputs)["status"] == "completed"
