"""An A/B at work: sessions of its arms in turn, each on engines of its own, recorded so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import filelock

from context_research.backends.registry import named
from context_research.compare import comparison, statistics, verdict
from context_research.compare.ab import grid, pilot
from context_research.compare.ab import looks as ab_looks
from context_research.compare.ab import processes as ab_processes
from context_research.compare.ab.plan import Plan
from context_research.compare.ab.processes import Running
from context_research.compare.family import offered, split
from context_research.compare.verdict import Findings
from context_research.errors import UsageProblem
from context_research.records import kept as records_kept
from context_research.records import redact, store
from context_research.records.ab import AbRecord, PlanRecord, SessionRecord
from context_research.records.base import JsonObject
from context_research.records.files import AbFiles, RunFiles, new_run_id
from context_research.records.kept import Kept
from context_research.records.run import RunRecord
from context_research.serving import shape
from context_research.settings.options import PREFIX

_USAGE_ERROR = 4
"""pytest's exit status of a session that was refused before anything ran."""


def judge(
    files: AbFiles,
    noise_floor: AbFiles | RunFiles | None = None,
    primary: Sequence[str] | None = None,
    practical: float | None = None,
) -> Findings:
    """The verdicts of an A/B, by default on the figures that its plan named. Raises UsageProblem."""
    planned = store.read(files.record, AbRecord).plan
    if isinstance(noise_floor, RunFiles):
        raise UsageProblem("give two runs, or an A/B and an A/A")
    family = planned.primary if primary is None else primary
    margin = planned.practical if practical is None else practical
    floor = comparison.of_ab(noise_floor) if noise_floor else None
    judged = verdict.judge(comparison.of_ab(files), family, margin, noise_floor=floor)
    return replace(judged, beforehand=set(family) == set(planned.primary) and margin == planned.practical)


_AGAIN = {"run_id": None, "status": "planned", "seconds": None}
"""What a session is that has to be run again."""


class TimeIsUp(Exception):
    """The budget is spent. The same command goes on."""


class Ab:
    """A plan at work. `record` is ab.json, written before and after each session."""

    def __init__(self, files: AbFiles, record: AbRecord, plan: Plan, lock: filelock.BaseFileLock) -> None:
        self.files, self.record, self._plan = files, record, plan
        self._lock = lock
        self._until = plan.ends[0]
        """The pairs after which all is judged next."""
        self._scatter_told = False
        self._deadline: float | None = None
        self._ended: list[SessionRecord] = []
        """Sessions that ended well in this call."""

    @classmethod
    def open(cls, outputs: Path, plan: Plan, fresh: bool = False) -> Ab:
        """The newest unfinished A/B of the same plan, or (`fresh`, or if there is none) a new one.

        Raises UsageProblem: that one is running now, or nothing can be written there.
        """
        store.check_writable(outputs)
        asked = plan.record()
        lock = _locked(outputs, asked)
        for path in [] if fresh else sorted((outputs / "ab").glob("*/ab.json"), reverse=True):
            with suppress(UsageProblem):  # a broken record beside it is no obstacle
                record = store.read(path, AbRecord)
                if record.plan == asked and record.status != "completed":
                    return cls(AbFiles(outputs, record.ab_id), record, plan, lock)
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        files = AbFiles(outputs, f"{now}-{plan.experiment}-ab-{secrets.token_hex(2)}")
        record = AbRecord(
            ab_id=files.ab_id,
            status="running",
            pid=os.getpid(),
            started=store.now(),
            finished=None,
            plan=asked,
            sessions=tuple(plan.sessions()),
        )
        return cls(files, record, plan, lock)

    def run(self, say: Callable[[str], None], budget: float | None = None) -> None:
        """Run every session that is not there yet. What is finished stays, whatever ends this.

        Raises UsageProblem: a session does not count, or differs from the others in what matters; TimeIsUp: the next
        session would not end within `budget` seconds.
        """
        self._deadline = None if budget is None else time.monotonic() + budget
        self._take_stock(say)
        if done := len(self._finished()):
            most = "at most " if len(self._plan.ends) > 1 else ""
            say(f"resuming {self.files.ab_id}: {done} of {most}{len(self._sessions)} sessions are there")
        self._write("running", pid=os.getpid(), reason=None)
        try:
            if self._plan.find_rates and not self.record.rates:
                self._write("running", rates=pilot.rates(self._plan, self.files.folder, say))
            self._run(say)
        except BaseException as problem:
            self._record_finished()
            self._write("stopped", reason=str(problem) or type(problem).__name__)
            raise
        else:
            self._write("completed")
        finally:
            self._lock.release()

    def _run(self, say: Callable[[str], None]) -> None:
        """Pairs up to one look after the other, until all is decided or there are no more."""
        if any(split(name)[0] == "capacity" for name in self._plan.primary):
            self._settle_rates(say)
        ahead = [end for end in self._plan.ends if end >= self._begun_pairs()]
        for self._until in ahead:
            self._run_sessions(say)
            if self._until == self._plan.pairs:
                return
            asked = judge(self.files).first
            decided = sum(each.outcome != "undecided" for each in asked)
            told = f"after {self._until} pairs {decided} of {len(asked)} figures decided"
            if statistics.settled(asked, self._plan.pairs):
                rest = f"; what is left would need far more than {self._plan.pairs}" if decided < len(asked) else ""
                say(f"{told}{rest}: it ends here")
                return
            say(f"{told}: on to the next look")

    def _settle_rates(self, say: Callable[[str], None]) -> None:
        """Run the first pair until the grid of rates holds every arm's capacities; all that follow measure that grid.

        Not of one with later sessions: they have it already.
        """
        rates = self.record.rates or grid.of_settings(self._plan.settings_of(self._plan.against))
        if len(rates) < 2 or self._plan.selects or self._begun_pairs() > 1:
            return
        self._until = 1
        while True:
            self._run_sessions(say)
            runs = [comparison.load(self._files(session)) for session in self._finished()]
            wider = grid.extended(rates, [each for run in runs for each in run.summary.capacities])
            if wider == rates or self.record.extended == grid.MOST:
                return
            added = ", ".join(f"{rate:g}" for rate in wider if rate not in rates)
            say(f"the rates end before a capacity: {added} a second are added, and the first pair is run again")
            rates = wider
            again = [one.model_copy(update=_AGAIN) if one.pair == 0 else one for one in self._sessions]
            self._write("running", rates=rates, extended=self.record.extended + 1, sessions=tuple(again))
            self._ended.clear()  # they took less time than those to come

    def _begun_pairs(self) -> int:
        """As many pairs as have begun: a look before their end has had its answer."""
        return max((one.pair + 1 for one in self._sessions if one.status != "planned"), default=0)

    def _run_sessions(self, say: Callable[[str], None]) -> None:
        """The sessions in their order, on each group of devices one at a time. After a problem none is begun.

        With those of the pairs after the next look it waits.
        """
        waiting = [number for number, _ in self._left()]
        running: list[Running] = []
        problem: UsageProblem | None = None
        self._tell_scatter(say)
        with ab_processes.ended_with_us(running):
            while True:
                while not problem and (number := self._next(waiting, running)):
                    kept = self._kept(session := self._sessions[number - 1])
                    goes_on = f", goes on {kept.told}" if kept else ""
                    say(f"{self._place(number)} {self._described(session)}{goes_on}")
                    running.append(self._begin(number, kept))
                    waiting.remove(number)
                if not running:
                    break
                one = ab_processes.first_to_end(running)
                running.remove(one)
                if one.goes_on and one.process.returncode == _USAGE_ERROR:
                    say(f"{self._place(one.number)} can't go on, and begins anew: see {one.log}")
                    self._change(one.number, run_id=None, status="planned")
                    waiting.insert(0, one.number)
                    continue
                try:
                    self._end(one)
                except UsageProblem as found:
                    problem = problem or found
                    if running:
                        say(f"ERROR: {found}; what runs beside it goes on to its end")
                else:
                    seconds = self._sessions[one.number - 1].seconds or 0.0
                    say(f"{self._place(one.number)} {seconds:.0f} s{self._time_left()}")
                    self._tell_scatter(say)
        if problem:
            raise problem
        if waiting:
            most = "at most " if self._until < self._plan.pairs else ""
            left = sum(one.status != "completed" for one in self._sessions)
            raise TimeIsUp(f"the next session would not end in time, {most}{left} are left")

    def _left(self) -> list[tuple[int, SessionRecord]]:
        """The sessions up to the next look that are still to be completed, by their number from 1."""
        numbered = enumerate(self._sessions, 1)
        return [(n, one) for n, one in numbered if one.pair < self._until and one.status != "completed"]

    def _place(self, number: int) -> str:
        """Of how many: up to the next look."""
        return f"[{number}/{self._until * len(self._plan.arms)}]"

    def _tell_scatter(self, say: Callable[[str], None]) -> None:
        """Once, when the pilot's pairs are there and the first look is still to come."""
        first = self._until == self._plan.ends[0] and self._left()
        there = all(one.status == "completed" for one in self._sessions if one.pair < ab_looks.PILOT)
        if first and there and self._plan.measured and not self._scatter_told:
            self._scatter_told = True
            for line in ab_looks.pilot(comparison.of_ab(self.files), self._plan.primary, self._plan.ends):
                say(line)

    def _next(self, waiting: Sequence[int], running: Sequence[Running]) -> int | None:
        """The first waiting session whose devices are free, unless it would end too late.

        A group whose own sessions are all done takes over another's.
        """
        groups: list[tuple[int, ...] | None] = list(self._plan.device_groups) or [None]
        taken = [self._sessions[one.number - 1].devices for one in running]
        free = [group for group in groups if group not in taken]
        if not waiting or not free:
            return None
        own = [number for number in waiting if self._sessions[number - 1].devices in free]
        number = (own or waiting)[0]
        session = self._sessions[number - 1]
        if not self._ends_in_time(session):
            return None
        if not own:
            self._change(number, **_AGAIN, devices=free[0])  # what it had measured was on others
        return number

    def _ends_in_time(self, session: SessionRecord) -> bool:
        """One goes before any has ended in this call: else nothing would ever be done."""
        if self._deadline is None or not self._ended:
            return True
        if now := _taken(self._ended).get(session.arm):
            expected = now[-1]
        else:  # a machine's first session of an arm compiles for a minute or two more, and this may be another machine
            before = _taken(self._finished())
            expected = max(before.get(session.arm) or chain(*before.values()))
        return time.monotonic() + expected <= self._deadline

    def _take_stock(self, say: Callable[[str], None]) -> None:
        """Sessions whose artifacts are gone, or count no more, are run again."""
        self._record_finished()
        for number, session in enumerate(self._sessions, 1):
            if session.status != "completed":
                continue
            try:
                comparison.load(self._files(session))
            except UsageProblem as problem:
                say(f"pair {session.pair + 1}, {session.arm} is run again: {problem}")
                self._change(number, **_AGAIN)

    def _record_finished(self) -> None:
        """Marks sessions as completed whose run finished although the A/B was stopped before recording it."""
        for number, session in enumerate(self._sessions, 1):
            if run := comparison.finished_unrecorded(self.files.outputs, session):
                with suppress(UsageProblem):
                    self._check(run, session.arm)
                    seconds = run.metadata.seconds_until(run.metadata.finished or "")
                    self._change(number, status="completed", seconds=seconds)
            if self._sessions[number - 1].status == "running":
                self._change(number, status="failed")

    @property
    def _sessions(self) -> tuple[SessionRecord, ...]:
        return self.record.sessions

    def _finished(self) -> list[SessionRecord]:
        return [session for session in self._sessions if session.status == "completed"]

    def _change(self, number: int, **changes: object) -> SessionRecord:
        """Change a session, counted from 1, in the record; what it is now."""
        changed = self._sessions[number - 1].model_copy(update=changes)
        sessions = (*self._sessions[: number - 1], changed, *self._sessions[number:])
        self.record = self.record.model_copy(update={"sessions": sessions})
        return changed

    def _files(self, session: SessionRecord) -> RunFiles:
        return RunFiles(self.files.outputs, str(session.run_id))

    def _kept(self, session: SessionRecord) -> Kept | None:
        """What there is of a session that was stopped amid its cases; None: it begins anew."""
        if session.status != "failed" or session.run_id is None:
            return None
        with suppress(UsageProblem):
            found = records_kept.of(self._files(session))
            return found if found.summary.cases else None
        return None

    def _begin(self, number: int, kept: Kept | None) -> Running:
        session = self._sessions[number - 1]
        chosen = self._plan.settings_of(session.arm)
        run_id = kept.run.run_id if kept else new_run_id(self._plan.experiment, chosen.serving.mode, session.seed)
        self._change(number, run_id=run_id, status="running", seconds=None)
        self._write("running")
        log = self.files.folder / f"session-{number:02}.log"
        arguments = [
            self._plan.folder,
            *self._plan.arguments(session.arm),
            f"{PREFIX}seed={session.seed}",
            f"{PREFIX}repeats={self._plan.repeats}",
            f"{PREFIX}{'resume' if kept else 'run-id'}={run_id}",
            f"{PREFIX}outputs={self.files.outputs.absolute()}",
            *([f"{PREFIX}rates={','.join(f'{rate:g}' for rate in self.record.rates)}"] if self.record.rates else []),
        ]
        group = session.devices if named(chosen.backend).needs_own_devices else None
        began = time.monotonic() - (kept.seconds if kept else 0.0)
        process = ab_processes.begin(arguments, log, chosen.device, group)
        return Running(number, log, began, process, goes_on=kept is not None)

    def _end(self, one: Running) -> None:
        """Take over a session that has ended. Raises UsageProblem: it failed, or does not count."""
        redact.log(one.log)
        code, seconds = one.process.returncode, round(time.monotonic() - one.began, 1)
        session = self._change(one.number, status="failed", seconds=seconds)
        files = self._files(session)
        try:
            if code:
                told = f"session {one.number} ({session.arm}) ended with {_why(files, code)}; its log: {one.log}"
                raise UsageProblem(told)
            self._check(comparison.load(files), session.arm)
            self._ended.append(self._change(one.number, status="completed"))
        finally:
            self._write("running")  # what was refused must not pass for one that runs: another may for minutes

    def _check(self, run: comparison.Run, arm: str) -> None:
        """Refuse a session that can't be judged with those before it. Raises UsageProblem."""
        known = list(dict.fromkeys(name for figures in run.figures.values() for name in figures))
        if unknown := [name for name in self._plan.primary if split(name)[0] not in known]:
            raise UsageProblem(f"--primary {unknown[0]}: no such figure; {offered(known)}")
        earlier: dict[str, RunFiles] = {each.arm: self._files(each) for each in reversed(self._finished())}
        if earlier:
            first = comparison.load(next(iter(earlier.values())))
            comparison.check_comparable(first, run, [*self._plan.allow_different, "seed"])
        for each in self._finished():
            if each.seed == run.metadata.seed and each.arm != arm:
                other = comparison.load(self._files(each))
                differing = comparison.check_comparable(other, run, self._plan.allow_different)
                comparison.check_requests(other, run, differing)
        if arm in earlier:
            before, now = (_lasting(each) for each in (comparison.load(earlier[arm]), run))
            if changed := [key for key in before if before[key] != now.get(key)]:
                raise UsageProblem(
                    f"arm {arm}: its settings changed since its first session ({', '.join(changed)}): set them back, "
                    "or begin anew with --fresh"
                )

    def _described(self, session: SessionRecord) -> str:
        where = f", devices {','.join(map(str, session.devices))}" if session.devices else ""
        arm = (
            f"{session.arm}: {self._plan.arms[session.arm]} ({shape.of_settings(self._plan.settings_of(session.arm))})"
        )
        return f"pair {session.pair + 1}, {arm}, seed {session.seed}{where}"

    def _time_left(self) -> str:
        """From the sessions that were run: an arm's mean time for each one to come."""
        taken = _taken(self._finished())
        every = [seconds for some in taken.values() for seconds in some]
        to_come = [session.arm for _, session in self._left()]
        left = sum(sum(some) / len(some) for arm in to_come for some in [taken.get(arm, every)])
        left /= max(1, len(self._plan.device_groups))
        to = "left" if self._until == self._plan.pairs else f"to the look after {self._until} pairs"
        to = to if self._until in self._plan.ends else "for the first pair"
        return f", about {timedelta(seconds=round(left))} {to}" if to_come else ""

    def _write(self, status: str, **changes: object) -> None:
        finished = None if status == "running" else store.now()
        self.record = self.record.model_copy(update={"status": status, "finished": finished, **changes})
        store.write(self.files.record, self.record)


def _taken(sessions: Iterable[SessionRecord]) -> dict[str, list[float]]:
    """Arm -> seconds that its sessions took."""
    taken: dict[str, list[float]] = {}
    for session in sessions:
        taken.setdefault(session.arm, []).append(session.seconds or 0.0)
    return taken


def _locked(outputs: Path, asked: PlanRecord) -> filelock.BaseFileLock:
    """A lock of this plan, taken. Raises UsageProblem: another process has it."""
    digest = hashlib.sha256(json.dumps(asked.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]
    lock = filelock.FileLock(outputs / f".ab-{digest}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageProblem(f"an A/B of the same plan is running now in {outputs}: wait for it, or end it") from None
    return lock


def _why(files: RunFiles, code: int) -> str:
    how = f"exit status {code}" if code > 0 else f"{signal.Signals(-code).name}"
    try:
        run = store.read(files.metadata, RunRecord)
    except UsageProblem:
        return f"{how} before it began"
    return f"{how}, its run {run.status}" + (f" ({run.reason})" if run.reason else "")


def _lasting(run: comparison.Run) -> JsonObject:
    """What must not change between an arm's sessions."""
    return {key: value for key, value in run.metadata.settings.items() if key not in ("seed", "outputs")}
