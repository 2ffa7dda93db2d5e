"""An A/B at work: sessions of two arms in turn, each on engines of its own, recorded so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock

from context_research import artifacts, comparison, findings
from context_research.ab_plan import Plan
from context_research.artifacts import SCHEMA_VERSION, AbFiles, RunFiles
from context_research.engines.child import dies_with_parent
from context_research.errors import UsageProblem
from context_research.findings import Findings


def judge(
    files: AbFiles,
    noise_floor: AbFiles | RunFiles | None = None,
    primary: Sequence[str] | None = None,
    practical: float | None = None,
) -> Findings:
    """The verdicts of an A/B, by default on the figures that its plan named. Raises UsageProblem."""
    planned = artifacts.read(files.record, "ab")["plan"]
    if isinstance(noise_floor, RunFiles):
        raise UsageProblem("a run is compared with a run, an A/B with an A/A: not one with the other")
    family = planned["primary"] if primary is None else primary
    margin = planned["practical"] if practical is None else practical
    floor = comparison.of_ab(noise_floor) if noise_floor else None
    judged = findings.judge(comparison.of_ab(files), family, margin, noise_floor=floor)
    return replace(judged, beforehand=set(family) == set(planned["primary"]) and margin == planned["practical"])


class Ab:
    """A plan at work. `record` is ab.json, written before and after each session."""

    def __init__(self, files: AbFiles, record: dict[str, Any], plan: Plan, lock: filelock.BaseFileLock) -> None:
        self.files, self.record, self._plan = files, record, plan
        self._lock = lock

    @classmethod
    def open(cls, outputs: Path, plan: Plan, fresh: bool = False) -> Ab:
        """The newest unfinished A/B of the same plan, or (`fresh`, or if there is none) a new one.

        Raises UsageProblem: that one is running now, or nothing can be written there.
        """
        artifacts.check_writable(outputs)
        asked = plan.as_json()
        lock = _locked(outputs, asked)
        for path in [] if fresh else sorted((outputs / "ab").glob("*/ab.json"), reverse=True):
            with suppress(UsageProblem):  # a broken record beside it is no obstacle
                record = artifacts.read(path, "ab")
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
            "started": artifacts.now(),
            "finished": None,
            "plan": asked,
            "sessions": list(plan.sessions()),
        }
        return cls(files, record, plan, lock)

    def run(self, say: Callable[[str], None]) -> None:
        """Run every session that is not there yet. What is finished stays, whatever ends this.

        Raises UsageProblem: a session does not count, or differs from the others in what matters.
        """
        sessions = self.record["sessions"]
        self._drop_lost(say)
        if done := len(self._finished()):
            say(f"resuming {self.files.ab_id}: {done} of {len(sessions)} sessions are there")
        self.record |= {"pid": os.getpid(), "reason": None}
        self._write("running")
        try:
            for number, session in enumerate(sessions, 1):
                if session["status"] != "completed":
                    say(f"[{number}/{len(sessions)}] {self._described(session)}")
                    self._session(session, number)
                    say(f"[{number}/{len(sessions)}] {session['seconds']:.0f} s{self._time_left()}")
        except BaseException as problem:
            self.record["reason"] = str(problem) or type(problem).__name__
            self._write("stopped")
            raise
        else:
            self._write("completed")
        finally:
            self._lock.release()

    def _drop_lost(self, say: Callable[[str], None]) -> None:
        """Sessions whose artifacts are gone, or count no more, are run again."""
        for session in self._finished():
            try:
                comparison.load(RunFiles(self.files.outputs, session["run_id"]))
            except UsageProblem as problem:
                say(f"pair {session['pair'] + 1}, {session['arm']} is run again: {problem}")
                session |= {"run_id": None, "status": "planned", "seconds": None}

    def _finished(self) -> list[dict[str, Any]]:
        return [session for session in self.record["sessions"] if session["status"] == "completed"]

    def _session(self, session: dict[str, Any], number: int) -> None:
        mode = self._plan.settings[session["arm"]]["serving"]["mode"]
        files = RunFiles(self.files.outputs, artifacts.new_run_id(self._plan.experiment, mode, session["seed"]))
        log = self.files.folder / f"session-{number:02}.log"
        session |= {"run_id": files.run_id, "status": "running", "seconds": None}
        self._write("running")
        began = time.monotonic()
        try:
            code = _pytest(
                [
                    f"benchmarks/{self._plan.experiment}",
                    *self._plan.arguments(session["arm"]),
                    f"--seed={session['seed']}",
                    f"--repeats={self._plan.repeats}",
                    f"--run-id={files.run_id}",
                    f"--outputs={self.files.outputs.absolute()}",
                ],
                log,
            )
        finally:
            session |= {"status": "failed", "seconds": round(time.monotonic() - began, 1)}
        if code:
            raise UsageProblem(f"session {number} ({session['arm']}) ended with {_why(files, code)}; its log: {log}")
        self._check(comparison.load(files), session["arm"])
        session["status"] = "completed"
        self._write("running")

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
        return f"pair {session['pair'] + 1}, {arm}: {getattr(self._plan, arm)}, seed {session['seed']}"

    def _time_left(self) -> str:
        """From the sessions that were run: an arm's mean time for each one to come."""
        taken: dict[str, list[float]] = {}
        for session in self._finished():
            taken.setdefault(session["arm"], []).append(session["seconds"])
        every = [seconds for some in taken.values() for seconds in some]
        to_come = [session["arm"] for session in self.record["sessions"] if session["status"] != "completed"]
        left = sum(sum(some) / len(some) for arm in to_come for some in [taken.get(arm, every)])
        return f", about {timedelta(seconds=round(left))} left" if to_come else ""

    def _write(self, status: str) -> None:
        self.record |= {"status": status, "finished": None if status == "running" else artifacts.now()}
        artifacts.write(self.files.record, "ab", self.record)


def _locked(outputs: Path, asked: dict[str, Any]) -> filelock.BaseFileLock:
    """A lock of this plan, taken. Raises UsageProblem: another process has it."""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    lock = filelock.FileLock(outputs / f".ab-{digest}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UsageProblem(f"an A/B of the same plan is running now in {outputs}: wait for it, or end it") from None
    return lock


def _pytest(arguments: list[str], log: Path) -> int:
    """Run pytest, its output to `log`; its exit status. What ends this process ends it too, in order if it can."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as output,
        _sigterm_raises(),
        dies_with_parent(),  # killed outright, we could not end the session, and it would run on beside the next one
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C goes to us alone: a second signal would disturb the session's end
            preexec_fn=_nothing,  # fork hooks, which dies_with_parent needs, run only where there is one
        ) as process,
    ):
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def _nothing() -> None: ...


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def leave(number: int, _: object) -> None:
        raise KeyboardInterrupt(f"{signal.Signals(number).name} received")

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _why(files: RunFiles, code: int) -> str:
    how = f"exit status {code}" if code > 0 else f"{signal.Signals(-code).name}"
    try:
        metadata = artifacts.read(files.metadata, "run_metadata")
    except UsageProblem:
        return f"{how} before it began"
    return f"{how}, its run {metadata['status']}" + (f" ({metadata['reason']})" if metadata.get("reason") else "")


def _lasting(run: comparison.Run) -> dict[str, Any]:
    """What must not change between an arm's sessions."""
    return {key: value for key, value in run.metadata["settings"].items() if key not in ("seed", "outputs")}
