"""A/Bs whose sessions write artifacts instead of running; real ones: tests/slow/test_ab.py."""

from pathlib import Path
from types import SimpleNamespace

from context_research.compare.ab import plan as ab_plan
from context_research.compare.ab.sessions import Ab
from context_research.records.files import RunFiles
from context_research.settings.experiments import Experiment
from tests.support import made_runs
from tests.support.artifacts import plain
from tests.support.made_runs import FLAT


def two(candidate="disaggregated"):
    """The arms of an A/B of two."""
    return {"baseline": "aggregated", "candidate": candidate}


DEFAULTS = {
    "arms": two(),
    "pairs": 3,
    "seed": 5,
    "repeats": 1,
    "pytest_options": (),
    "allow_different": (),
}
ENDED = {"terminate": lambda: None, "wait": lambda _: None}
"""Of a process that has."""


class Sessions:
    """Stands for ab_processes.begin: writes the artifacts of a run, and notes what it was asked."""

    def __init__(self, outputs):
        self._outputs, self.ran, self.before = outputs, [], lambda _: None
        self.changes = lambda _: {}
        self.figures = lambda *_: FLAT
        """Of a session's number and serving mode: what it measures."""

    def __call__(self, arguments, log, _, group):
        return SimpleNamespace(returncode=(code := self.run(arguments, log, group)), poll=lambda: code, **ENDED)

    def run(self, arguments, log, group):
        given = dict(
            word.removeprefix("--cr-").split("=", 1) for word in arguments if word.startswith("--") and "=" in word
        )
        self.ran.append({"arguments": arguments, "log": log, "group": group, **given})
        number = len(self.ran)
        if (code := self.before(number)) is not None:
            return code
        run_id = given.get("run-id") or given["resume"]
        RunFiles(self._outputs, run_id).requests.unlink(missing_ok=True)  # of the part before
        made_runs.run(
            self._outputs,
            run_id,
            self.figures(number, given["serving"]),
            serving=given["serving"],
            seed=int(given["seed"]),
            changes=self.changes(number),
        )
        return 0


def plan(**values):
    return ab_plan.plan(Experiment("e0", Path("benchmarks/e0")), **(DEFAULTS | values))


def recorded(outputs):
    (path,) = (outputs / "ab").glob("*/ab.json")
    return plain(path, "ab")


def run(outputs, **values):
    said = []
    Ab.open(outputs, plan(**values)).run(said.append)
    return said
