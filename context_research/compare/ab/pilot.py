"""Before the first session: the rates around the knee of every arm, which all sessions then measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from context_research.compare.ab.plan import Plan
from context_research.engines.vllm.process_lifetime import dies_with_parent
from context_research.errors import UsageProblem
from context_research.measure.knee import Knee, grid
from context_research.settings.options import SIMULATED_OPT_IN


def rates(plan: Plan, folder: Path, say: Callable[[str], None]) -> tuple[float, ...]:
    """A grid around all arms' knees, each searched for on engines of its own; their logs are in `folder`.

    Where simulating is allowed, on simulated ones first: it is quicker, and nothing of it counts.
    Raises UsageProblem: a search failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    knees: list[Knee] = []
    for arm, text in plan.arms.items():
        say(f"looking for the rates of {arm}: {text}")
        log, found = folder / f"rates-{arm}.log", folder / f"rates-{arm}.json"
        asked = [plan.experiment, "--serving", text, "--seed", str(plan.seed), "--json", str(found)]
        command = [sys.executable, "-m", "context_research.cli", "rates", *asked, "--", *plan.pytest_options]
        simulated = plan.measured and os.environ.get(SIMULATED_OPT_IN) == "1"
        if simulated and not _search([*command, "--backend=simulated"], log):
            say("found by simulation")
        elif _search(command, log):
            raise UsageProblem(f"no rates were found for {arm}; the search's log: {log}")
        knees += [Knee(*pair) for pair in json.loads(found.read_text(encoding="utf-8"))["knees"]]
    around = grid(knees)
    say(f"rates: {', '.join(f'{rate:g}' for rate in around)} a second")
    return tuple(around)


def _search(command: Sequence[str], log: Path) -> int:
    """Run it to its end; its exit status."""
    # Killed outright, we could not end it; the hook that sees to it runs where there is a preexec_fn.
    with log.open("w", encoding="utf-8") as output, dies_with_parent():
        return subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, check=False, preexec_fn=lambda: None
        ).returncode
