"""A/Bs whose sessions write artifacts instead of running; real ones: tests/test_ab.py."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from context_research import ab, ab_plan, ab_processes, artifacts, findings
from context_research.ab import Ab
from context_research.artifacts import AbFiles, RunFiles
from context_research.errors import UsageProblem
from context_research.verdict import PRACTICAL

from . import made, made_runs
from .made_runs import FLAT

DEFAULTS = {
    "baseline": "aggregated",
    "candidate": "disaggregated",
    "pairs": 3,
    "seed": 5,
    "repeats": 1,
    "pytest_options": (),
    "allow_different": (),
}
ENDED = {"send_signal": lambda _: None, "wait": lambda: None}
"""Of a process that has."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks" / "e0").mkdir(parents=True)
    (tmp_path / "benchmarks" / "e0" / "test_e0.py").touch()
    return tmp_path


@pytest.fixture
def outputs(here):
    return here / "outputs"


class Sessions:
    """Stands for ab_processes.begin: writes the artifacts of a run, and notes what it was asked."""

    def __init__(self, outputs):
        self._outputs, self.ran, self.before = outputs, [], lambda _: None
        self.changes = lambda _: {}

    def __call__(self, arguments, log, _, group):
        return SimpleNamespace(returncode=(code := self.run(arguments, log, group)), poll=lambda: code, **ENDED)

    def run(self, arguments, log, group):
        given = dict(word.lstrip("-").split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
        self.ran.append({"arguments": arguments, "log": log, "group": group, **given})
        number = len(self.ran)
        if (code := self.before(number)) is not None:
            return code
        made_runs.run(
            self._outputs,
            given["run-id"],
            FLAT,
            serving=given["serving"],
            seed=int(given["seed"]),
            changes=self.changes(number),
        )
        return 0


@pytest.fixture
def sessions(outputs, monkeypatch):
    stand_in = Sessions(outputs)
    monkeypatch.setattr(ab_processes, "begin", stand_in)
    return stand_in


def plan(**values):
    return ab_plan.plan("e0", **(DEFAULTS | values))


def recorded(outputs):
    (path,) = (outputs / "ab").glob("*/ab.json")
    return artifacts.read(path, "ab")


def run(outputs, **values):
    said = []
    Ab.open(outputs, plan(**values)).run(said.append)
    return said


# Plans


def test_arms_are_run_abba_and_pairs_share_a_seed():
    order = [(session["pair"], session["arm"], session["seed"]) for session in plan(pairs=4).sessions()]
    assert order == [
        (0, "baseline", 5),
        (0, "candidate", 5),
        (1, "candidate", 6),
        (1, "baseline", 6),
        (2, "baseline", 7),
        (2, "candidate", 7),
        (3, "candidate", 8),
        (3, "baseline", 8),
    ]


def machine(monkeypatch, count):
    monkeypatch.setattr(ab_plan.devices, "indices", lambda _: list(range(count)))


@pytest.mark.parametrize("groups", ["0;1", "0,1;2,3", "0;1;2;3"])
def test_a_pairs_arms_have_groups_of_their_own_and_the_next_pairs_have_them_the_other_way_round(monkeypatch, groups):
    machine(monkeypatch, 4)
    made_plan = plan(pairs=8, device_groups=groups)
    where = {(session["pair"], session["arm"]): tuple(session["devices"]) for session in made_plan.sessions()}
    lanes = len(made_plan.device_groups) // 2
    for pair in range(8):
        lane = made_plan.device_groups[2 * (pair % lanes) : 2 * (pair % lanes) + 2]
        assert {where[pair, arm] for arm in ab_plan.ARMS} == set(lane)
    for group in made_plan.device_groups:
        assert sum(where[pair, "baseline"] == group for pair in range(8)) == 4 // lanes
        assert sum(where[pair, "candidate"] == group for pair in range(8)) == 4 // lanes


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("0;1;2", "a pair's two arms run side by side, each on a group: give two, or any even number"),
        ("0,1", "each on a group: give two"),
        ("0;1,2", "any even number of them, all of one size"),
        ("0;0", "a device is in two groups"),
        ("0;7", r"devices \[7\] are not among this machine's: \[0, 1, 2, 3\]"),
        ("a;b", "expected groups of device ids"),
    ],
)
def test_groups_that_cannot_be_are_refused(monkeypatch, groups, told):
    machine(monkeypatch, 4)
    with pytest.raises(UsageProblem, match=f"--device-groups={groups}: .*{told}"):
        plan(device_groups=groups)


@pytest.mark.parametrize("pairs", range(2, 9, 2))
def test_over_pairs_of_pairs_both_arms_run_equally_early(pairs):
    order = [session["arm"] for session in plan(pairs=pairs).sessions()]
    places = {arm: sum(i for i, each in enumerate(order) if each == arm) for arm in ab_plan.ARMS}
    assert places["baseline"] == places["candidate"]


def test_the_family_and_the_practical_difference_are_those_of_everyone_or_the_users():
    default, named = plan(), plan(primary=["e2e"], practical=0.1)
    assert (default.primary, default.practical) == (findings.PRIMARY, PRACTICAL)
    assert (named.primary, named.practical) == (("e2e",), 0.1)


def test_an_arm_is_a_mode_with_options():
    made_plan = plan(
        candidate="aggregated --dtype bfloat16 --requests=5 --set engine.max_num_batched_tokens=64 --set=slo.ttft=0.5",
        pytest_options=("-k", "c1"),
        allow_different=("model.dtype", "workload.requests"),
    )
    arm = made_plan.settings["candidate"]
    assert (arm["serving"]["mode"], arm["model"]["dtype"], arm["workload"]["requests"]) == ("aggregated", "bfloat16", 5)
    assert (arm["engine"]["max_num_batched_tokens"], arm["slo"]["ttft"]) == (64, 0.5)
    assert made_plan.settings["baseline"]["model"]["dtype"] == "float32"
    assert made_plan.arguments("candidate") == [
        *("-k", "c1", "--serving=aggregated"),
        *("--dtype", "bfloat16", "--requests=5", "--set", "engine.max_num_batched_tokens=64", "--set=slo.ttft=0.5"),
    ]


def test_an_arm_can_be_a_file(here):
    (here / "mine.yaml").write_text("mode: aggregated\nengines: [{name: own, role: aggregated}]\n")
    assert plan(candidate="mine.yaml").settings["candidate"]["serving"]["engines"][0]["name"] == "own"


def test_a_value_with_a_space_stays_one(here):
    (here / "my experiment.yaml").write_text((made.settings.CONFIGS / "experiments/e0_smoke.yaml").read_text())
    made_plan = plan(candidate="aggregated --experiment-config 'my experiment.yaml'")
    assert made_plan.arguments("candidate")[1:] == ["--experiment-config", "my experiment.yaml"]


def test_the_environment_counts_for_both_arms_and_an_arms_own_option_wins(monkeypatch):
    monkeypatch.setattr(ab_plan, "from_environment", lambda: {"--requests": "7"})
    settings = plan(candidate="aggregated --requests=5", allow_different=("workload.requests",)).settings
    assert [settings[arm]["workload"]["requests"] for arm in ab_plan.ARMS] == [7, 5]


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("", "begin with a serving mode"),
        ("   ", "begin with a serving mode"),
        ("--dtype half", "begin with a serving mode (aggregated, aggregated-2x, "),
        ("split", "unknown serving mode 'split'"),
        ("no.yaml", "cannot read no.yaml"),
        ("aggregated --serving disaggregated", "leave --serving out"),
        ("aggregated --serving-config a.yaml", "leave --serving-config out"),
        ("aggregated --seed 1", "--seed is no option of an arm"),
        ("aggregated --repeats=1", "--repeats is no option of an arm"),
        ("aggregated --outputs=x", "--outputs is no option of an arm"),
        ("aggregated --run-id=x", "--run-id is no option of an arm"),
        ("aggregated --benchmark-disable", "--benchmark-disable is no option of an arm"),
        ("aggregated disaggregated", "disaggregated is no option of an arm"),
        ("aggregated --requests", "--requests needs a value"),
        ("aggregated --requests=many", "--requests=many: expected a value like N"),
        ("aggregated --set", "--set needs a value"),
        ("aggregated --set x", "--set x: expected KEY=VALUE"),
        ("aggregated --set engine.x=1", "engine.x: unknown key"),
        ("aggregated 'open", "--candidate"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_in_one_line(arm, told):
    with pytest.raises(UsageProblem) as problem:
        plan(candidate=arm)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


def test_an_unknown_experiment_is_refused():
    with pytest.raises(UsageProblem, match="no experiment benchmarks/e1 here"):
        ab_plan.plan("e1", **DEFAULTS)


# Sessions


def test_each_session_gets_its_arm_its_seed_and_a_name(outputs, sessions):
    run(outputs, repeats=2, pytest_options=("-k", "c1"))
    assert [(each["serving"], each["seed"]) for each in sessions.ran] == [
        ("aggregated", "5"),
        ("disaggregated", "5"),
        ("disaggregated", "6"),
        ("aggregated", "6"),
        ("aggregated", "7"),
        ("disaggregated", "7"),
    ]
    assert {each["repeats"] for each in sessions.ran} == {"2"}
    assert {each["outputs"] for each in sessions.ran} == {str(outputs)}
    assert all(each["arguments"][0] == "benchmarks/e0" for each in sessions.ran)
    assert all(each["arguments"][1:3] == ["-k", "c1"] for each in sessions.ran)
    record = recorded(outputs)
    assert record["status"] == "completed"
    assert [session["run_id"] for session in record["sessions"]] == [each["run-id"] for each in sessions.ran]
    assert len({each["log"] for each in sessions.ran}) == 6


def test_the_record_says_what_runs_while_it_runs(outputs, sessions):
    seen = []
    sessions.before = lambda _: seen.append(recorded(outputs))
    run(outputs, pairs=1)
    assert [record["status"] for record in seen] == ["running", "running"]
    assert [[s["status"] for s in record["sessions"]] for record in seen] == [
        ["running", "planned"],
        ["completed", "running"],
    ]
    assert all(record["pid"] == os.getpid() for record in seen)
    assert seen[0]["sessions"][0]["run_id"] == sessions.ran[0]["run-id"]


def test_it_says_how_far_it_is_and_for_how_long(outputs, sessions, monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(ab.time, "monotonic", lambda: next(clock))
    said = run(outputs, pairs=2)
    assert said[0] == "[1/4] pair 1, baseline: aggregated, seed 5"
    assert said[1] == "[1/4] 30 s, about 0:01:30 left"
    assert said[-1] == "[4/4] 30 s"


def test_time_left_is_each_arms_own(outputs):
    opened = Ab.open(outputs, plan())
    for session, seconds in zip(opened.record["sessions"], (10.0, 50.0, 70.0), strict=False):
        session |= {"status": "completed", "seconds": seconds}
    # To come: baseline, baseline, candidate, at 10, 10 and (50 + 70) / 2.
    assert opened._time_left() == ", about 0:01:20 left"


def test_time_left_before_an_arm_has_run_is_the_other_arms(outputs):
    opened = Ab.open(outputs, plan(pairs=1))
    opened.record["sessions"][0] |= {"status": "completed", "seconds": 10.0}
    assert opened._time_left() == ", about 0:00:10 left"


# Side by side, and in time


class Beside:
    """Sessions that run until they are told to end: `turns` is called at each look at one, and says whether it has."""

    def __init__(self, sessions, ends):
        self._sessions, self._ends, self.together = sessions, ends, []
        self._running = []

    def __call__(self, arguments, log, device, group):
        one = self._sessions(arguments, log, device, group)
        number, code = len(self._sessions.ran), one.returncode
        self._running.append(number)
        self.together.append(tuple(self._running))

        def poll():
            if number in self._running and not self._ends(number):
                return None
            if number in self._running:
                self._running.remove(number)
            return code

        one.poll = poll
        return one


def beside(monkeypatch, sessions, ends=lambda _: True):
    machine(monkeypatch, 4)
    monkeypatch.setattr(ab_processes, "_LOOK_S", 0)
    stand_in = Beside(sessions, ends)
    monkeypatch.setattr(ab_processes, "begin", stand_in)
    return stand_in


def test_each_group_has_one_session_at_a_time_and_the_next_when_it_ends(outputs, sessions, monkeypatch):
    looks = iter(range(1000))
    found = beside(monkeypatch, sessions, lambda _: next(looks) % 3 == 2)
    run(outputs, device_groups="0,1;2,3")
    assert max(map(len, found.together)) == 2
    groups = [tuple(each["group"]) for each in sessions.ran]
    assert {groups[number - 1] for number in found.together[1]} == {(0, 1), (2, 3)}
    assert all(len({groups[number - 1] for number in now}) == len(now) for now in found.together)
    assert [(tuple(s["devices"]), s["status"]) for s in recorded(outputs)["sessions"]][:4] == [
        ((0, 1), "completed"),
        ((2, 3), "completed"),
        ((0, 1), "completed"),
        ((2, 3), "completed"),
    ]


def test_a_group_whose_own_sessions_are_done_takes_over_anothers(outputs, sessions, monkeypatch):
    """The second session, on the second group, ends last of all."""
    found = beside(monkeypatch, sessions, lambda number: number != 2 or len(sessions.ran) == 6)
    run(outputs, device_groups="0;1")
    assert found.together[1:] == [(1, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    assert [each["group"] for each in sessions.ran] == [[0], [1], [0], [0], [0], [0]]
    assert {tuple(s["devices"]) for s in recorded(outputs)["sessions"] if s["status"] == "completed"} == {(0,), (1,)}


def test_what_runs_beside_a_session_that_fails_ends_and_counts(outputs, sessions, monkeypatch):
    """The second session fails at once; the first has looks to go."""
    looks = iter(range(1000))
    beside(monkeypatch, sessions, lambda number: number == 2 or next(looks) > 5)
    sessions.before = lambda number: 3 if number == 2 else None
    with pytest.raises(UsageProblem, match=r"session 2 \(candidate\) ended with exit status 3"):
        run(outputs, device_groups="0;1")
    statuses = [session["status"] for session in recorded(outputs)["sessions"]]
    assert statuses == ["completed", "failed", "planned", "planned", "planned", "planned"]
    sessions.before = lambda _: None
    assert run(outputs, device_groups="0;1")[0].endswith("1 of 6 sessions are there")


def test_what_is_refused_is_on_disk_at_once(outputs, sessions, monkeypatch):
    """While another runs on for minutes: killed then, the A/B must not take it for one that ended well unnoted."""
    seen = []

    def ends(number):
        if number == 1:
            seen.append(recorded(outputs)["sessions"][1]["status"])
        return number == 2 or len(seen) > 3

    beside(monkeypatch, sessions, ends)
    sessions.before = lambda number: 3 if number == 2 else None
    with pytest.raises(UsageProblem):
        run(outputs, pairs=1, device_groups="0;1")
    assert seen[-1] == "failed"


def test_a_session_that_ends_well_as_the_ab_is_interrupted_counts(outputs, sessions, monkeypatch):
    """The first session's run is whole, and nobody has looked yet, when the signal comes."""
    beside(monkeypatch, sessions)

    def interrupted(number):
        if number == 2:
            raise KeyboardInterrupt("SIGTERM received")

    sessions.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(outputs, pairs=1, device_groups="0;1")
    assert [session["status"] for session in recorded(outputs)["sessions"]] == ["completed", "failed"]


@pytest.mark.parametrize(("groups", "pairs", "evenly"), [("0;1", 6, True), ("0;1;2;3", 6, False), ("0;1;2;3", 8, True)])
def test_groups_swap_evenly_over_a_multiple_of_pairs(monkeypatch, groups, pairs, evenly):
    machine(monkeypatch, 4)
    assert plan(pairs=pairs, device_groups=groups).swaps_evenly is evenly
    assert plan(pairs=pairs).swaps_evenly


def test_simulated_sessions_see_a_machine_of_their_own(outputs, sessions, monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    beside(monkeypatch, sessions)
    run(outputs, device_groups="0;1", pytest_options=("--device-profile=h200",))
    assert {each["group"] for each in sessions.ran} == {None}


def test_no_session_is_begun_that_would_not_end_in_time(outputs, sessions, monkeypatch):
    """Each takes 30 s: by the fourth call of the clock two have ended, and a third would end at 90."""
    clock = iter(range(0, 10_000, 15))
    monkeypatch.setattr(ab.time, "monotonic", lambda: next(clock))
    said = []
    with pytest.raises(ab.TimeIsUp, match="4 are left"):
        Ab.open(outputs, plan()).run(said.append, budget=90)
    record = recorded(outputs)
    assert record["status"] == "stopped"
    assert [session["status"] for session in record["sessions"]].count("completed") == 2


def test_a_first_session_is_begun_however_little_time_there_is(outputs, sessions):
    with pytest.raises(ab.TimeIsUp):
        Ab.open(outputs, plan()).run(lambda _: None, budget=0)
    assert len(sessions.ran) == 1


# What goes wrong, and going on


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


def test_a_session_that_had_ended_well_when_the_ab_was_killed_counts(outputs, sessions):
    """Its record still says that it runs."""
    run(outputs, pairs=1)
    (path,) = (outputs / "ab").glob("*/ab.json")
    gone = {"status": "running", "pid": 2**22 + 1, "sessions__1__status": "running", "sessions__1__seconds": None}
    made_runs.edit(path, "ab", **gone)
    files = AbFiles(outputs, path.parent.name)
    assert len(ab.judge(files).comparison.candidate.units) == 1
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
    path.write_text(json.dumps(payload | {"status": "stopped"}))
    assert run(outputs, pairs=1)[0].startswith("resuming ")


def test_one_of_the_same_plan_that_runs_in_another_process_is_refused(outputs, sessions):
    said = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from pathlib import Path; from context_research import ab, ab_plan\n"
            f"held = ab.Ab.open(Path({str(outputs)!r}), ab_plan.plan('e0', **{DEFAULTS!r}))\n"
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
        {"candidate": "aggregated"},
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
    for requests in ("5", "6"):
        monkeypatch.setattr(ab_plan, "from_environment", lambda value=requests: {"--requests": value})
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
        run(outputs, candidate="disaggregated --dtype bfloat16")
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
    with pytest.raises(UsageProblem, match=r"the candidate's settings changed since its first session \(engine\)"):
        run(outputs)
    assert recorded(outputs)["sessions"][2]["status"] == "failed"


@pytest.mark.parametrize("option", ["--serving=aggregated", "--serving-config=x.yaml", "--seed=1", "--repeats=2"])
def test_options_of_every_session_cannot_replace_what_the_ab_decides(option):
    with pytest.raises(UsageProblem, match=f"{option.partition('=')[0]} can't be among the pytest options"):
        plan(pytest_options=(option,))


def test_options_of_every_session_are_in_both_arms_settings():
    settings = plan(pytest_options=("-k", "c1", "--requests", "9", "--set=slo.ttft=2")).settings
    assert [settings[arm]["workload"]["requests"] for arm in ab_plan.ARMS] == [9, 9]
    assert [settings[arm]["slo"]["ttft"] for arm in ab_plan.ARMS] == [2, 2]


@pytest.mark.parametrize("name", ["", "ttft.", "ttft.p42", ".p50"])
def test_a_family_that_cannot_be_is_refused_before_any_session(name):
    with pytest.raises(UsageProblem, match=r"--primary .*: expected metrics such as ttft"):
        plan(primary=[name])


def test_a_metric_that_no_session_has_is_refused_after_the_first(outputs, sessions):
    with pytest.raises(UsageProblem, match="--primary latency: no such metric"):
        run(outputs, primary=["latency"])
    assert len(sessions.ran) == 1


def test_the_family_is_metrics_times_cases():
    assert plan().family == 2 * 4
    assert plan(primary=["ttft"], pytest_options=("--concurrency=1",)).family == 2


SLOW = """
import time, pytest
from pathlib import Path
@pytest.fixture
def engine():
    yield
    time.sleep(1)  # engines take their time to close
    Path("closed").touch()
def test_long(engine):
    Path("running").touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_lets_the_session_close_its_engines(here, number):
    """A terminal's Ctrl-C goes to the whole process group: the session must not get a second signal while it ends."""
    (here / "test_slow.py").write_text(SLOW)
    arguments = ["-p", "no:cacheprovider", "test_slow.py"]
    script = (
        "from pathlib import Path; from types import SimpleNamespace as Running\n"
        "from context_research import ab_processes\n"
        "running = []\n"
        "with ab_processes.ended_with_us(running):\n"
        f"    running.append(Running(process=ab_processes.begin({arguments}, Path('log'), 'cpu', None)))\n"
        "    ab_processes.first_to_end(running)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], process_group=0, stderr=subprocess.DEVNULL)
    try:
        assert made.until((here / "running").exists, seconds=30)
        (os.killpg if number == signal.SIGINT else os.kill)(driver.pid, number)
        driver.wait(timeout=30)
    finally:
        driver.kill()
        driver.wait()
    assert (here / "closed").exists(), (here / "log").read_text()


# Verdicts


def test_the_family_is_the_plans_unless_another_is_named(outputs):
    files = made_runs.A_B(outputs, primary=["tpot"], practical=0.1)
    judged = ab.judge(files)
    assert ([each.pairs.metric for each in judged.primary], judged.practical) == (["tpot"], 0.1)
    assert judged.beforehand
    assert ab.judge(files, primary=["tpot"]).beforehand
    assert not ab.judge(files, primary=["ttft"]).beforehand


def test_a_practical_difference_of_the_readers_is_not_named_beforehand(outputs):
    files = made_runs.A_B(outputs, ratio=1.02, noise=0.001)
    assert ab.judge(files, practical=0.03).beforehand
    assert not ab.judge(files, practical=0.01).beforehand


def test_the_plans_pytest_options_survive_the_record(outputs, sessions):
    run(outputs, pairs=1, pytest_options=("-k", "c1"))
    (path,) = (outputs / "ab").glob("*/ab.json")
    assert json.loads(path.read_text())["plan"]["pytest_options"] == ["-k", "c1"]
