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
from typing import Any

from tabulate import tabulate

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
            *(None if entry[key] is None else f"{entry[key]:.3f}" for key in ("ratio", "low", "high", "p_adjusted")),
        )
        for number, entry in entries
    ]
    print(tabulate(rows, ("A/B", "metric", "case", "outcome", "ratio", "low", "high", "p adjusted")))
    print(dict(Counter(entry["outcome"] for _, entry in entries)))


def compare(baseline: str, candidate: str, pairs: int, seed: int, outputs: Path) -> dict[str, Any]:
    """Run one A/B as a user would, unless it is finished already; its verdict.json."""
    asked = {"baseline": baseline, "candidate": candidate, "pairs": pairs, "seed": seed}
    for path in outputs.glob("ab/*/ab.json"):
        record, verdict = json.loads(path.read_text(encoding="utf-8")), path.with_name("verdict.json")
        same = asked == {key: record["plan"][key] for key in asked}
        if same and record["status"] == "completed" and verdict.is_file():
            return dict(json.loads(verdict.read_text(encoding="utf-8")))
    arms = [f"--baseline={baseline}", f"--candidate={candidate}", f"--pairs={pairs}", f"--seed={seed}"]
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    # Rows of a hundred sessions would bury the user's own in pytest-benchmark's storage.
    storage = f"--benchmark-storage=file://{(outputs / 'benchmarks').absolute()}"
    subprocess.run(
        [sys.executable, "-m", "context_research.cli.main", "ab", "e0", *arms, f"--outputs={outputs}", "--", storage],
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    newest = max(outputs.glob("ab/*/verdict.json"), key=lambda found: found.stat().st_mtime)
    return dict(json.loads(newest.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
