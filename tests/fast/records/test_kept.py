"""Which runs can go on, and what is kept of them."""

import os
from datetime import UTC, datetime

import pytest

from context_research.errors import UsageProblem
from context_research.records import kept
from context_research.records.files import PLANNED
from context_research.records.running import Running
from tests.support import made, made_runs
from tests.support.made_runs import FLAT

TWO = FLAT | {"p64-c2": FLAT["p64-c1"]}
PART = {"status": "interrupted", "planned": 3, "cases": dict.fromkeys(TWO, "passed")}


def ended(tmp_path, **values):
    return made_runs.run(tmp_path, "mine", TWO, **(PART | values))


@pytest.mark.parametrize("status", ["interrupted", "error", "incomplete", "failed", "running"])
def test_whatever_ended_it_a_run_whose_cases_all_passed_goes_on(tmp_path, status):
    found = kept.of(ended(tmp_path, status=status))
    assert found.told == "after 2 of 3 cases"
    assert [case.name for case in found.summary.cases] == list(TWO)


def test_what_a_killed_run_had_begun_to_write_does_not_count(tmp_path):
    files = ended(tmp_path, status="running")
    with files.requests.open("a") as stream:
        stream.write('{"kind": "repeat"')
    found = kept.of(files)
    assert found.summary.requests_file.size < files.requests.stat().st_size


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"status": "completed"}, "run mine completed: there is nothing to resume"),
        ({"status": "incomplete", "reason": PLANNED}, "run mine is planned and has not begun: give --run-id mine"),
        ({"cases": {"p64-c2": "failed"}}, "its case p64-c2 was measured and is failed: run it anew"),
    ],
    ids=["completed", "planned", "failed"],
)
def test_what_cannot_go_on_says_why_in_one_line(tmp_path, values, told):
    with pytest.raises(UsageProblem, match=told):
        kept.of(ended(tmp_path, **values))


def test_a_case_that_is_invalid_is_not_measured_until_it_passes(tmp_path):
    files = ended(tmp_path)
    made_runs.edit(files.summary("e0"), "summary", cases__1__status="invalid")
    with pytest.raises(UsageProblem, match="its case p64-c2 was measured and is invalid"):
        kept.of(files)


def test_one_that_had_xdist_workers_is_refused(tmp_path):
    files = ended(tmp_path)
    (files.logs / "gw0").mkdir(parents=True)
    with pytest.raises(UsageProblem, match="had xdist workers"):
        kept.of(files)


def test_one_that_runs_now_is_refused_and_so_is_a_second_process(tmp_path):
    files = ended(tmp_path, status="running", pid=7)
    held = Running(files, again=True)
    with pytest.raises(UsageProblem, match=r"run mine is running now \(pid 7\)"):
        kept.of(files)
    with pytest.raises(UsageProblem, match="run mine is running now"):
        Running(files, again=True)
    held.end()


def test_what_a_killed_run_left_of_its_lock_is_taken_over(tmp_path):
    files = ended(tmp_path, status="running")
    files.running.write_bytes(b"left")
    Running(files, again=True).end()
    assert not files.running.exists()


def test_the_time_before_it_was_resumed_is_not_its_own(tmp_path):
    def at(minute):
        return f"2026-01-01T00:{minute:02}:00+00:00"

    before = {"stopped": at(10), "at": at(30), "after": "p64-c1"}
    files = ended(tmp_path, started=at(0), resumed=[before], finished=at(35))
    assert kept.of(files).seconds == 15 * 60
    made_runs.edit(files.metadata, "run_metadata", finished=None, status="running")
    os.utime(files.metadata, (datetime(2026, 1, 1, 0, 40, tzinfo=UTC).timestamp(),) * 2)
    assert kept.of(files).seconds == 20 * 60, "killed: up to its last word"


def test_files_of_before_have_never_been_resumed():
    plain = made.metadata()
    assert "resumed" not in plain
    assert made.run_record().resumed == ()
