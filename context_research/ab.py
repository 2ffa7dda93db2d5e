"""An A/B: sessions of two arms in the order A B B A, each on engines of its own, recorded so that it can be resumed."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from context_research import artifacts, comparison, devices, findings, settings
from context_research.artifacts import SCHEMA_VERSION, AbFiles, RunFiles
from context_research.engines.child import dies_with_parent
from context_research.errors import UsageProblem
from context_research.findings import PRIMARY, Findings
from context_research.options import OPTIONS, from_environment
from context_research.verdict import PRACTICAL

ARMS = ("baseline", "candidate")
_GIVEN_BY_AB = ("--seed", "--outputs", "--run-id", "--repeats")


@dataclass(frozen=True, slots=True)
class Plan:
    """What an A/B was asked to do. An arm is a serving mode or file, with options of ours: ``aggregated --dtype half``.

    `pytest_options` go to every session's pytest. `settings`: each arm's as resolved, so that an A/B never goes on with
    others.
    """

    experiment: str
    baseline: str
    candidate: str
    pairs: int
    seed: int
    repeats: int
    pytest_options: tuple[str, ...]
    primary: tuple[str, ...]
    practical: float
    allow_different: tuple[str, ...]
    settings: dict[str, Any]

    def sessions(self) -> Iterator[dict[str, Any]]:
        """ABBA: what drifts steadily weighs on both arms alike. Pair i has the seed `seed` + i in both arms."""
        for pair in range(self.pairs):
            for arm in ARMS if pair % 2 == 0 else ARMS[::-1]:
                yield {
                    "pair": pair,
                    "arm": arm,
                    "seed": self.seed + pair,
                    "run_id": None,
                    "status": "planned",
                    "seconds": None,
                }

    def arguments(self, arm: str) -> list[str]:
        """pytest's arguments for one arm."""
        serving, *options = shlex.split(getattr(self, arm))
        return [f"--serving={serving}", *options, *self.pytest_options]


def plan(experiment: str, primary: Sequence[str] | None = None, practical: float | None = None, **more: Any) -> Plan:
    """A plan, both arms' settings resolved. Raises UsageProblem: no such experiment, arm, option or value."""
    given = {"primary": tuple(primary or PRIMARY), "practical": practical or PRACTICAL, **more}
    if not any((Path("benchmarks") / experiment).glob("test_*.py")):
        raise UsageProblem(f"no experiment benchmarks/{experiment} here: run this in the repository")
    made = Plan(experiment=experiment, settings={}, **given)
    resolved = {arm: _resolve(made, arm) for arm in ARMS}
    return Plan(experiment=experiment, settings=resolved, **given)


def _resolve(made: Plan, arm: str) -> dict[str, Any]:
    given = shlex.split(getattr(made, arm))
    if not given or given[0].startswith("-"):
        raise UsageProblem(f"--{arm} {getattr(made, arm)!r}: begin with a serving mode ({_modes()}) or a YAML file")
    texts, sets = _options(given[1:], f"--{arm}")
    if not set(texts).isdisjoint(("--serving", "--serving-config")):
        raise UsageProblem(f"--{arm} {getattr(made, arm)!r}: the serving mode is its first word; leave --serving out")
    layers = [
        settings.parse_options("environment", from_environment()),
        settings.parse_options(f"--{arm}", {**texts, "--serving": given[0]}),
        settings.parse_set(f"--{arm}", sets),
    ]
    return settings.resolve(made.experiment, layers, *devices.detect()).settings.model_dump(mode="json")


def _modes() -> str:
    return ", ".join(settings.serving_modes())


def _options(words: Sequence[str], where: str) -> tuple[dict[str, str], list[str]]:
    """Flag -> text, and what --set was given. An arm takes our own options alone: others don't change the serving."""
    known = {option.flag for option in OPTIONS} | {"--set"}
    texts: dict[str, str] = {}
    sets: list[str] = []
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag not in known or flag in _GIVEN_BY_AB:
            raise UsageProblem(
                f"{where}: {flag} is no option of an arm; those are {', '.join(sorted(known - {*_GIVEN_BY_AB}))}"
            )
        if not equals and not rest:
            raise UsageProblem(f"{where}: {flag} needs a value")
        value = value if equals else rest.pop(0)
        if flag == "--set":
            sets.append(value)
        else:
            texts[flag] = value
    return texts, sets


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
    judged = findings.judge(
        comparison.of_ab(files),
        primary or planned["primary"],
        practical or planned["practical"],
        noise_floor=comparison.of_ab(noise_floor) if noise_floor else None,
    )
    return replace(judged, beforehand=list(primary or planned["primary"]) == planned["primary"])


class Ab:
    """A plan at work. `record` is ab.json, written before and after each session."""

    def __init__(self, files: AbFiles, record: dict[str, Any], made: Plan) -> None:
        self.files, self.record, self._plan = files, record, made

    @classmethod
    def open(cls, outputs: Path, made: Plan, fresh: bool = False) -> Ab:
        """The newest unfinished A/B of the same plan, or (`fresh`, or if there is none) a new one.

        Raises UsageProblem: that one is running now, or nothing can be written there.
        """
        artifacts.check_writable(outputs)
        plan_json = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(made).items()}
        for path in [] if fresh else sorted((outputs / "ab").glob("*/ab.json"), reverse=True):
            record = artifacts.read(path, "ab")
            if record["plan"] != plan_json or record["status"] == "completed":
                continue
            if _alive(record):
                raise UsageProblem(f"A/B {record['ab_id']} of the same plan is running now, as pid {record['pid']}")
            return cls(AbFiles(outputs, record["ab_id"]), record, made)
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        files = AbFiles(outputs, f"{now}-{made.experiment}-ab-{secrets.token_hex(2)}")
        record = {
            "schema_version": SCHEMA_VERSION,
            "ab_id": files.ab_id,
            "status": "running",
            "reason": None,
            "pid": os.getpid(),
            "started": _now(),
            "finished": None,
            "plan": plan_json,
            "sessions": list(made.sessions()),
        }
        return cls(files, record, made)

    def run(self, say: Callable[[str], None]) -> None:
        """Run every session that is not there yet. What is finished stays, whatever ends this.

        Raises UsageProblem: a session does not count, or differs from the others in what matters.
        """
        sessions = self.record["sessions"]
        if done := sum(session["status"] == "completed" for session in sessions):
            say(f"resuming {self.files.ab_id}: {done} of {len(sessions)} sessions are there")
        self.record |= {"pid": os.getpid(), "pid_started": psutil.Process().create_time(), "reason": None}
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
        self._write("completed")

    def _session(self, session: dict[str, Any], number: int) -> None:
        serving = self.record["plan"]["settings"][session["arm"]]["serving"]["mode"]
        files = RunFiles(self.files.outputs, artifacts.new_run_id(self._plan.experiment, serving, session["seed"]))
        log = self.files.folder / f"session-{number:02}.log"
        session |= {"run_id": files.run_id, "status": "running", "seconds": None}
        self._write("running")
        began = time.monotonic()
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
        session |= {"status": "failed", "seconds": round(time.monotonic() - began, 1)}
        if code:
            raise UsageProblem(f"session {number} ({session['arm']}) ended with {_why(files, code)}; its log: {log}")
        finished = comparison.load(files)
        self._check_against_first(finished)
        session["status"] = "completed"
        self._write("running")

    def _check_against_first(self, run: comparison.Run) -> None:
        first = next((s["run_id"] for s in self.record["sessions"] if s["status"] == "completed"), None)
        if first is not None:
            earlier = comparison.load(RunFiles(self.files.outputs, first))
            comparison.check_comparable(earlier, run, [*self._plan.allow_different, "seed"])

    def _described(self, session: dict[str, Any]) -> str:
        arm = session["arm"]
        return f"pair {session['pair'] + 1}, {arm}: {self.record['plan'][arm]}, seed {session['seed']}"

    def _time_left(self) -> str:
        """From the sessions that were run: an arm's mean time for each one to come."""
        taken: dict[str, list[float]] = {}
        for session in self.record["sessions"]:
            if session["status"] == "completed":
                taken.setdefault(session["arm"], []).append(session["seconds"])
        every = [seconds for some in taken.values() for seconds in some]
        to_come = [session["arm"] for session in self.record["sessions"] if session["status"] != "completed"]
        left = sum(sum(some) / len(some) for arm in to_come for some in [taken.get(arm, every)])
        return f", about {timedelta(seconds=round(left))} left" if to_come else ""

    def _write(self, status: str) -> None:
        self.record |= {"status": status, "finished": None if status == "running" else _now()}
        artifacts.write(self.files.record, "ab", self.record)


def _pytest(arguments: list[str], log: Path) -> int:
    """Run pytest, its output to `log`; its exit status. A SIGTERM or SIGINT to us ends it in order first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as output,
        _sigterm_raises(),
        # Killed outright, we could not end the session, and it would run on beside the next one.
        dies_with_parent(),
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
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
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _why(files: RunFiles, code: int) -> str:
    try:
        metadata = artifacts.read(files.metadata, "run_metadata")
    except UsageProblem:
        return f"exit status {code} before it began"
    return f"status {metadata['status']}" + (f" ({metadata['reason']})" if metadata.get("reason") else "")


def _alive(record: dict[str, Any]) -> bool:
    """Whether the process that last wrote `record` still runs it."""
    try:
        same = abs(psutil.Process(record["pid"]).create_time() - record.get("pid_started", 0)) < 1
        return bool(record["status"] == "running" and same)
    except psutil.Error:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
