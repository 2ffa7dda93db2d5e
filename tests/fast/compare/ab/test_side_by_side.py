"""Sessions on groups of devices of their own, and within a budget of time."""

import pytest

from context_research.compare.ab import processes as ab_processes
from context_research.compare.ab import sessions as ab
from context_research.compare.ab.sessions import Ab
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from tests.support.made_sessions import plan, recorded, run, two

THREE = {"whole": "aggregated", "chunk": "aggregated", "split": "disaggregated"}


def machine(monkeypatch, count):
    there = Machine("cpu", tuple(range(count)), (8 << 30,))
    monkeypatch.setattr("context_research.hardware.devices.this_machine", lambda _: there)


@pytest.mark.parametrize("groups", ["0;1", "0,1;2,3", "0;1;2;3"])
def test_a_pairs_arms_have_groups_of_their_own_and_the_next_pairs_have_them_the_other_way_round(monkeypatch, groups):
    machine(monkeypatch, 4)
    made_plan = plan(pairs=8, device_groups=groups)
    where = {(session.pair, session.arm): session.devices for session in made_plan.sessions()}
    lanes = len(made_plan.device_groups) // 2
    for pair in range(8):
        lane = made_plan.device_groups[2 * (pair % lanes) : 2 * (pair % lanes) + 2]
        assert {where[pair, arm] for arm in two()} == set(lane)
    for group in made_plan.device_groups:
        assert sum(where[pair, "baseline"] == group for pair in range(8)) == 4 // lanes
        assert sum(where[pair, "candidate"] == group for pair in range(8)) == 4 // lanes


@pytest.mark.parametrize("groups", ["0;1;2", "0,1;2,3;4,5;6,7;8,9;10,11"])
def test_three_arms_have_each_group_equally_often(monkeypatch, groups):
    machine(monkeypatch, 12)
    made_plan = plan(pairs=6, device_groups=groups, arms=THREE)
    assert made_plan.swaps_evenly
    sessions = list(made_plan.sessions())
    where = [(session.arm, session.devices) for session in sessions]
    times = len(where) // 3 // len(made_plan.device_groups)
    assert {where.count((arm, group)) for arm in THREE for group in made_plan.device_groups} == {times}
    for pair in range(6):
        assert len({session.devices for session in sessions if session.pair == pair}) == 3


def test_looks_on_groups_that_each_arm_would_not_have_equally_often_are_noted(monkeypatch):
    machine(monkeypatch, 12)
    assert not plan(pairs=None, device_groups="0;1;2", arms=THREE).swaps_evenly
    assert plan(pairs=None, looks=[6, 9, 12], device_groups="0;1;2", arms=THREE).swaps_evenly


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("0;1;2", "a pair's 2 arms run side by side, each on a group: give 2 groups, or a multiple of that"),
        ("0,1", "each on a group: give 2 groups"),
        ("0;1,2", "a multiple of that, all of one size"),
        ("0;0", "a device is in two groups"),
        ("0;7", r"devices \[7\] are not among this machine's: \[0, 1, 2, 3\]"),
        ("a;b", "expected groups of device ids"),
    ],
)
def test_groups_that_cannot_be_are_refused(monkeypatch, groups, told):
    machine(monkeypatch, 4)
    with pytest.raises(UsageProblem, match=f"--device-groups={groups}: .*{told}"):
        plan(device_groups=groups)


class Beside:
    """Sessions that run until they are told to end: `ends` is asked at each look at one, by its number."""

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


def test_a_look_waits_for_its_pairs_and_no_later_session_begins_before_it(outputs, sessions, monkeypatch):
    """The second session is slow: its group is idle's neighbour, and takes nothing of the seventh pair."""
    judged = []
    found = beside(monkeypatch, sessions, lambda number: number != 2 or len(sessions.ran) == 12)
    monkeypatch.setattr(ab, "judge", lambda files, judge=ab.judge: judged.append(len(sessions.ran)) or judge(files))
    scatter = (0.1, 0.12, 0.08, 0.1, 0.02, -0.01, 0.02, 0.1)
    sessions.figures = lambda _, arm: {
        "p64-c1": {"ttft": [0.1 * (1 + scatter[pair(sessions)] * (arm == "disaggregated"))], "tpot": [0.01]}
    }
    run(outputs, pairs=None, looks=[6, 8], device_groups="0;1")
    assert judged == [12]
    assert len(sessions.ran) == 16
    assert max(map(len, found.together)) == 2


def pair(sessions):
    """Of the session that was begun last, by its seed; the first has 5."""
    return int(sessions.ran[-1]["seed"]) - 5


def test_a_group_whose_own_sessions_are_done_takes_over_anothers(outputs, sessions, monkeypatch):
    """The second session, on the second group, ends last of all."""
    found = beside(monkeypatch, sessions, lambda number: number != 2 or len(sessions.ran) == 6)
    run(outputs, device_groups="0;1")
    assert found.together[1:] == [(1, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    assert [each["group"] for each in sessions.ran] == [(0,), (1,), (0,), (0,), (0,), (0,)]
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
