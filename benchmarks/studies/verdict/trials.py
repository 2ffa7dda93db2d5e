"""The verdict on real runs: A/A comparisons, where every alarm is false, and a planted slowdown of decode.

    python benchmarks/studies/verdict/trials.py aa --count 10
    python benchmarks/studies/verdict/trials.py planted --pairs 8

Prints each A/B's outcome and, last, a table; writes the verdicts to --json. On two cores and the smoke config ten A/As
take nearly an hour; an interrupted trial goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TypedDict

from tabulate import tabulate


class Entry(TypedDict):
    """What a trial shows of one entry of verdict.json."""

    metric: str
    case: str
    outcome: str
    ratio: float | None
    low: float | None
    high: float | None
    p_adjusted: float | None


class Verdict(TypedDict):
    """What a trial reads of verdict.json."""

    primary: list[Entry]


HERE = Path(__file__).parent
PLANTED = "aggregated --set engine.args.scheduler_cls=slow_decode.SlowDecode"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=("aa", "planted"))
    parser.add_argument("--count", type=int, default=1, help="A/Bs to run")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--arm", default="aggregated", help="of the A/A: its serving mode")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    candidate = PLANTED if given.trial == "planted" else given.arm
    verdicts = [
        compare(given.arm, candidate, given.pairs, given.first_seed + 100 * number, given.outputs)
        for number in range(given.count)
    ]
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(verdicts, indent=1) + "\n")
    entries = [(number, entry) for number, verdict in enumerate(verdicts, 1) for entry in verdict["primary"]]
    rows = [
        (
            number,
            entry["metric"],
            entry["case"],
            entry["outcome"],
            *map(_rounded, (entry["ratio"], entry["low"], entry["high"], entry["p_adjusted"])),
        )
        for number, entry in entries
    ]
    print(tabulate(rows, ("A/B", "metric", "case", "outcome", "ratio", "low", "high", "p adjusted")))
    print(dict(Counter(entry["outcome"] for _, entry in entries)))


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def compare(baseline: str, candidate: str, pairs: int, seed: int, outputs: Path) -> Verdict:
    """Run one A/B as a user would, unless it is finished already; its verdict.json."""
    asked = {"arms": {"baseline": baseline, "candidate": candidate}, "pairs": pairs, "seed": seed}
    for path in outputs.glob("ab/*/ab.json"):
        record, verdict = json.loads(path.read_text(encoding="utf-8")), path.with_name("verdict.json")
        same = asked == {key: record["plan"][key] for key in asked}
        if same and record["status"] == "completed" and verdict.is_file():
            return _read(verdict)
    arms = [f"--baseline={baseline}", f"--candidate={candidate}", f"--pairs={pairs}", f"--seed={seed}"]
    modules = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    # Rows of a hundred sessions would bury the user's own in pytest-benchmark's storage.
    storage = f"--benchmark-storage=file://{(outputs / 'benchmarks').absolute()}"
    subprocess.run(
        [sys.executable, "-m", "context_research.cli", "ab", "e0", *arms, f"--outputs={outputs}", "--", storage],
        check=True,
        env=os.environ | {"PYTHONPATH": modules},
    )
    return _read(max(outputs.glob("ab/*/verdict.json"), key=lambda path: path.stat().st_mtime))


def _read(path: Path) -> Verdict:
    verdict: Verdict = json.loads(path.read_text(encoding="utf-8"))
    return verdict


if __name__ == "__main__":
    main()
