"""Which share of TTFT the KV handoff takes, from run artifacts: handoff p50 ÷ TTFT p50 of a case, by session.

    python benchmarks/studies/handoff/share.py outputs                                  # every completed run in there
    python benchmarks/studies/handoff/share.py docs/results/X/*.json --statistic mean   # summaries kept elsewhere

The figure is the median over the sessions, with its exact 95 % interval (order statistics); that takes six. A p50 takes
eight samples in a session; means can be had from fewer. Runs without a handoff are passed over.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scipy import stats
from tabulate import tabulate

from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.errors import UsageProblem
from context_research.records import store

ENDED_WELL = "completed"


@dataclass(frozen=True, slots=True)
class Share:
    """One case: seconds of handoff and TTFT in each session."""

    case: str
    handoff: Sequence[float]
    ttft: Sequence[float]

    @property
    def shares(self) -> list[float]:
        return [part / whole for part, whole in zip(self.handoff, self.ttft, strict=True)]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the median share over the sessions; None of too few."""
        if len(self.shares) < MIN_PAIRS:
            return None
        found = stats.quantile_test(self.shares, q=median(self.shares)).confidence_interval(1 - ALPHA)
        return float(found.low), float(found.high)

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "sessions": len(self.shares),
            "handoff_s": median(self.handoff),
            "ttft_s": median(self.ttft),
            "share": median(self.shares),
            "interval": self.interval,
            "shares": self.shares,
        }


def shares(summaries: Iterable[Path], statistic: str = "p50") -> list[Share]:
    """Every case that has a handoff, over the completed runs among these summaries.

    Raises UsageProblem: a file that is no summary, a figure with too few samples behind it, no handoff in any.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for path in summaries:
        summary = _read(path)
        if summary["status"] != ENDED_WELL:
            continue
        for case in summary["cases"]:
            if "handoff" not in case["waterfall"]:
                continue
            figures = [case["waterfall"]["handoff"][statistic], case["metrics"]["ttft"][statistic]]
            if None in figures:
                raise UsageProblem(f"{path}: {case['name']} has too few requests for a {statistic} (--statistic mean)")
            found.setdefault(case["name"], []).append((figures[0], figures[1]))
    if not found:
        raise UsageProblem("no completed run with a handoff among these")
    return [Share(case, *zip(*pairs, strict=True)) for case, pairs in found.items()]


def _read(path: Path) -> dict[str, Any]:
    """Not by today's schema: summaries that were kept are of the code of their day."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        [(case["name"], case["waterfall"], case["metrics"]["ttft"]) for case in summary["cases"]]
        return {"status": summary["status"], "cases": summary["cases"]}
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageProblem(f"{path} is no run's summary") from None


def summaries(given: Iterable[Path]) -> list[Path]:
    """Summary files: those named, a run folder's, and those of an outputs folder's runs."""
    found = []
    for path in given:
        of_runs = sorted([*path.glob("*_summary.json"), *path.glob("runs/*/*_summary.json")])
        if path.is_dir() and not of_runs:
            raise UsageProblem(f"no run in {path}")
        found += of_runs if path.is_dir() else [path]
    return found


def markdown(found: Sequence[Share]) -> str:
    rows = [
        (
            each.case,
            len(each.shares),
            f"{median(each.handoff) * 1e3:.1f}",
            f"{median(each.ttft) * 1e3:.0f}",
            f"{median(each.shares):.2%}",
            "{:.2%} to {:.2%}".format(*each.interval) if each.interval else f"– (needs {MIN_PAIRS} sessions)",
        )
        for each in found
    ]
    header = ("case", "sessions", "handoff (ms)", "ttft (ms)", "handoff ÷ ttft", "95 % interval")
    return str(tabulate(rows, headers=header, tablefmt="github", disable_numparse=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="outputs folders, run folders, summary files")
    parser.add_argument("--statistic", choices=("p50", "mean"), default="p50", help="of a session's requests")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    try:
        found = shares(summaries(given.paths), given.statistic)
    except UsageProblem as problem:
        parser.exit(2, f"ERROR: {problem}\n")
    print(markdown(found))
    if given.json:
        store.replace(given.json, json.dumps([each.as_json() for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
