"""An A/B at work: sessions of two arms in turn, each on engines of its own, recorded so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import filelock

from context_research.backends.registry import named
from context_research.compare import comparison, verdict
from context_research.compare.ab import processes as ab_processes
from context_research.compare.ab.plan import Plan
from context_research.compare.ab.processes import Running
from context_research.compare.verdict import Findings
from context_research.errors import UsageProblem
from context_research.records import store
from context_research.records.files import AbFiles, RunFiles, new_run_id
from context_research.records.store import SCHEMA_VERSION
from context_research.settings.options import PREFIX


def judge(
    files: AbFiles,
    noise_floor: AbFiles | RunFiles | None = None,
    primary: Sequence[str] | None = None,
    practical: float | None = None,
) -> Findings:
    """The verdicts of an A/B, by default on the figures that its plan named. Raises UsageProblem."""
    planned = store.read(files.record, "ab")["plan"]
    if isinstance(noise_floor, RunFiles):
        raise UsageProblem("a run is compared with a run, an A/B with an A/A: not one with the other")
    family = planned["primary"] if primary is None else primary
    margin = planned["practical"] if practical is None else practical
    floor = comparison.of_ab(noise_floor) if noise_floor else None
    judged = verdict.judge(comparison.of_ab(files), family, margin, noise_floor=floor)
    return replace(judged, beforehand=set(family) == set(planned["primary"]) and margin == planned["practical"])


class TimeIsUp(Exception):
    """The budget is spent. The same command goes on."""


class Ab:
    """A plan at work. `record` is ab.json, written before and after each session."""

    def __init__(self, files: AbFiles, record: dict[str, Any], plan: Plan, lock: filelock.BaseFileLock) -> None:
        self.files, self.record, self._plan = files, record, plan
        self._lock = lock
        self._deadline: float | None = None
        self._ended: list[dict[str, Any]] = []
        """Sessions that ended well in this call."""

    @classmethod
    def open(cls, outputs: Path, plan: Plan, fresh: bool = False) -> Ab:
        """The newest unfinished A/B of the same plan, or (`fresh`, or if there is none) a new one.

        Raises UsageProblem: that one is running now, or nothing can be written there.
        """
        store.check_writable(outputs)
        asked = plan.as_json()
        lock = _locked(outputs, asked)
        for path in [] if fresh else sorted((outputs / "ab").glob("*/ab.json"), reverse=True):
            with suppress(UsageProblem):  # a broken record beside it is no obstacle
                record = store.read(path, "ab")
                # There were no device groups before 2026-11-27, and experiments in benchmarks/ alone.
                before = {"device_groups": [], "folder": f"benchmarks/{record['plan']['experiment']}"}
                record["plan"] = before | record["plan"]
                record["sessions"] = [{"devices": None} | session for session in record["sessions"]]
                if record["plan"] == asked and record["status"] != "completed":
                    return cls(AbFiles(outputs, record["ab_id"]), record, plan, lock)
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        files = AbFiles(outputs, f"{now}-{plan.experiment}-ab-{secrets.token_hex(2)}")
        record = {
            "schema_version": SCHEMA_VERSION,
            "ab_id": files.ab_id,
            "status": "running",
            "reason": None,
            "pid": os.getpid(),
            "started": store.now(),
            "finished": None,
            "plan": asked,
            "sessions": list(plan.sessions()),
        }
        return cls(files, record, plan, lock)

    def run(self, say: Callable[[str], None], budget: float | None = None) -> None:
        """Run every session that is not there yet. What is finished stays, whatever ends this.

        Raises UsageProblem: a session does not count, or differs from the others in what matters; TimeIsUp: the next
        session would not end within `budget` seconds.
        """
        self._deadline = None if budget is None else time.monotonic() + budget
        self._take_stock(say)
        if done := len(self._finished()):
            say(f"resuming {self.files.ab_id}: {done} of {len(self._sessions)} sessions are there")
        self.record |= {"pid": os.getpid(), "reason": None}
        self._write("running")
        try:
            self._run(say)
        except BaseException as problem:
            self._note_unnoted()
            self.record["reason"] = str(problem) or type(problem).__name__
            self._write("stopped")
            raise
        else:
            self._write("completed")
        finally:
            self._lock.release()

    def _run(self, say: Callable[[str], None]) -> None:
        """The sessions in their order, on each group of devices one at a time. After a problem none is begun."""
        waiting = [number for number, one in enumerate(self._sessions, 1) if one["status"] != "completed"]
        running: list[Running] = []
        problem: UsageProblem | None = None
        with ab_processes.ended_with_us(running):
            while True:
                while not problem and (number := self._next(waiting, running)):
                    say(f"[{number}/{len(self._sessions)}] {self._described(self._sessions[number - 1])}")
                    running.append(self._begin(number))
                    waiting.remove(number)
                if not running:
                    break
                one = ab_processes.first_to_end(running)
                running.remove(one)
                try:
                    self._end(one)
                except UsageProblem as found:
                    problem = problem or found
                    if running:
                        say(f"ERROR: {found}; what runs beside it goes on to its end")
                else:
                    say(f"[{one.number}/{len(self._sessions)}] {one.session['seconds']:.0f} s{self._time_left()}")
        if problem:
            raise problem
        if waiting:
            raise TimeIsUp(f"the next session would not end in time, {len(waiting)} are left")

    def _next(self, waiting: Sequence[int], running: Sequence[Running]) -> int | None:
        """The first waiting session whose devices are free, unless it would end too late.

        A group whose own sessions are all done takes over another's.
        """
        groups: list[list[int] | None] = [list(group) for group in self._plan.device_groups] or [None]
        taken = [one.session["devices"] for one in running]
        free = [group for group in groups if group not in taken]
        if not waiting or not free:
            return None
        own = [number for number in waiting if self._sessions[number - 1]["devices"] in free]
        number = (own or waiting)[0]
        session = self._sessions[number - 1]
        if not self._ends_in_time(session):
            return None
        session["devices"] = session["devices"] if own else free[0]
        return number

    def _ends_in_time(self, session: dict[str, Any]) -> bool:
        """One goes before any has ended in this call: else nothing would ever be done."""
        if self._deadline is None or not self._ended:
            return True
        if now := _taken(self._ended).get(session["arm"]):
            expected = now[-1]
        else:  # a machine's first session of an arm compiles for a minute or two more, and this may be another machine
            before = _taken(self._finished())
            expected = max(before.get(session["arm"]) or chain(*before.values()))
        return time.monotonic() + expected <= self._deadline

    def _take_stock(self, say: Callable[[str], None]) -> None:
        """Sessions whose artifacts are gone, or count no more, are run again."""
        self._note_unnoted()
        for session in self._finished():
            try:
                comparison.load(RunFiles(self.files.outputs, session["run_id"]))
            except UsageProblem as problem:
                say(f"pair {session['pair'] + 1}, {session['arm']} is run again: {problem}")
                session |= {"run_id": None, "status": "planned", "seconds": None}

    def _note_unnoted(self) -> None:
        """Of the sessions that ran when the A/B was ended, or killed, those count that had ended well."""
        for session in self._sessions:
            if run := comparison.ended_unnoted(self.files.outputs, session):
                with suppress(UsageProblem):
                    self._check(run, session["arm"])
                    began, ended = (datetime.fromisoformat(run.metadata[key]) for key in ("started", "finished"))
                    session |= {"status": "completed", "seconds": (ended - began).total_seconds()}
            if session["status"] == "running":
                session["status"] = "failed"

    @property
    def _sessions(self) -> list[dict[str, Any]]:
        return list(self.record["sessions"])

    def _finished(self) -> list[dict[str, Any]]:
        return [session for session in self._sessions if session["status"] == "completed"]

    def _begin(self, number: int) -> Running:
        session = self._sessions[number - 1]
        chosen = self._plan.settings[session["arm"]]
        run_id = new_run_id(self._plan.experiment, chosen["serving"]["mode"], session["seed"])
        session |= {"run_id": run_id, "status": "running", "seconds": None}
        self._write("running")
        log = self.files.folder / f"session-{number:02}.log"
        arguments = [
            self._plan.folder,
            *self._plan.arguments(session["arm"]),
            f"{PREFIX}seed={session['seed']}",
            f"{PREFIX}repeats={self._plan.repeats}",
            f"{PREFIX}run-id={run_id}",
            f"{PREFIX}outputs={self.files.outputs.absolute()}",
        ]
        group = session["devices"] if named(chosen["backend"]).needs_own_devices else None
        began = time.monotonic()
        return Running(number, session, log, began, ab_processes.begin(arguments, log, chosen["device"], group))

    def _end(self, one: Running) -> None:
        """Take over a session that has ended. Raises UsageProblem: it failed, or does not count."""
        session, code = one.session, one.process.returncode
        files = RunFiles(self.files.outputs, session["run_id"])
        session |= {"status": "failed", "seconds": round(time.monotonic() - one.began, 1)}
        try:
            if code:
                told = f"session {one.number} ({session['arm']}) ended with {_why(files, code)}; its log: {one.log}"
                raise UsageProblem(told)
            self._check(comparison.load(files), session["arm"])
            session["status"] = "completed"
            self._ended.append(session)
        finally:
            self._write("running")  # what was refused must not pass for one that runs: another may for minutes

    def _check(self, run: comparison.Run, arm: str) -> None:
        """Refuse a session that can't be judged with those before it. Raises UsageProblem."""
        known = {name for case in run.cases.values() for name in case["metrics"]}
        if unknown := [name for name in self._plan.primary if name.partition(".")[0] not in known]:
            raise UsageProblem(f"--primary {unknown[0]}: no such metric; there are {', '.join(sorted(known))}")
        earlier = {each["arm"]: RunFiles(self.files.outputs, each["run_id"]) for each in reversed(self._finished())}
        if earlier:
            first = comparison.load(next(iter(earlier.values())))
            comparison.check_comparable(first, run, [*self._plan.allow_different, "seed"])
        if arm in earlier:
            before, now = (_lasting(each) for each in (comparison.load(earlier[arm]), run))
            if changed := [key for key in before if before[key] != now.get(key)]:
                raise UsageProblem(
                    f"the {arm}'s settings changed since its first session ({', '.join(changed)}): set them back, "
                    "or begin anew with --fresh"
                )

    def _described(self, session: dict[str, Any]) -> str:
        arm = session["arm"]
        where = f", devices {','.join(map(str, session['devices']))}" if session["devices"] else ""
        return f"pair {session['pair'] + 1}, {arm}: {getattr(self._plan, arm)}, seed {session['seed']}{where}"

    def _time_left(self) -> str:
        """From the sessions that were run: an arm's mean time for each one to come."""
        taken = _taken(self._finished())
        every = [seconds for some in taken.values() for seconds in some]
        to_come = [session["arm"] for session in self._sessions if session["status"] != "completed"]
        left = sum(sum(some) / len(some) for arm in to_come for some in [taken.get(arm, every)])
        left /= max(1, len(self._plan.device_groups))
        return f", about {timedelta(seconds=round(left))} left" if to_come else ""

    def _write(self, status: str) -> None:
        self.record |= {"status": status, "finished": None if status == "running" else store.now()}
        store.write(self.files.record, "ab", self.record)


def _taken(sessions: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Arm -> seconds that its sessions took."""
    taken: dict[str, list[float]] = {}
    for session in sessions:
        taken.setdefault(session["arm"], []).append(session["seconds"])
    return taken


def _locked(outputs: Path, asked: dict[str, Any]) -> filelock.BaseFileLock:
    """A lock of this plan, taken. Raises UsageProblem: another process has it."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    lock = filelock.FileLock(outputs / f".ab-{digest}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageProblem(f"an A/B of the same plan is running now in {outputs}: wait for it, or end it") from None
    return lock


def _why(files: RunFiles, code: int) -> str:
    how = f"exit status {code}" if code > 0 else f"{signal.Signals(-code).name}"
    try:
        metadata = store.read(files.metadata, "run_metadata")
    except UsageProblem:
        return f"{how} before it began"
    return f"{how}, its run {metadata['status']}" + (f" ({metadata['reason']})" if metadata.get("reason") else "")


def _lasting(run: comparison.Run) -> dict[str, Any]:
    """What must not change between an arm's sessions."""
    return {key: value for key, value in run.metadata["settings"].items() if key not in ("seed", "outputs")}
