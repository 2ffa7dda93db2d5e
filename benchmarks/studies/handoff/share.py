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
from typing import Literal, TypedDict

from scipy import stats
from tabulate import tabulate

from context_research.compare.statistics import ALPHA, MIN_PAIRS
from context_research.errors import UsageProblem
from context_research.records import store

ENDED_WELL = "completed"
Statistic = Literal["p50", "mean"]


class Figures(TypedDict):
    """Of a session's requests, in seconds; None with too few samples."""

    p50: float | None
    mean: float | None


class Case(TypedDict):
    """What this script reads of a summary's case: each part of TTFT, and the metrics."""

    name: str
    waterfall: dict[str, Figures]
    metrics: dict[str, Figures]


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
        interval = stats.quantile_test(self.shares, q=median(self.shares)).confidence_interval(1 - ALPHA)
        return float(interval.low), float(interval.high)

    def as_json(self) -> dict[str, object]:
        return {
            "case": self.case,
            "sessions": len(self.shares),
            "handoff_s": median(self.handoff),
            "ttft_s": median(self.ttft),
            "share": median(self.shares),
            "interval": self.interval,
            "shares": self.shares,
        }


def shares(summaries: Iterable[Path], statistic: Statistic = "p50") -> list[Share]:
    """Every case that has a handoff, over the completed runs among these summaries.

    Raises UsageProblem: a file that is no summary, a figure with too few samples behind it, no handoff in any.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for path in summaries:
        for case in _cases(path):
            if "handoff" not in case["waterfall"]:
                continue
            handoff, ttft = case["waterfall"]["handoff"][statistic], case["metrics"]["ttft"][statistic]
            if handoff is None or ttft is None:
                raise UsageProblem(f"{path}: {case['name']} has too few requests for a {statistic} (--statistic mean)")
            pairs.setdefault(case["name"], []).append((handoff, ttft))
    if not pairs:
        raise UsageProblem("no completed run with a handoff among these")
    return [Share(case, *zip(*sessions, strict=True)) for case, sessions in pairs.items()]


def _cases(path: Path) -> list[Case]:
    """Of a completed run, else none. Not by today's schema: summaries that were kept are of the code of their day."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        cases: list[Case] = summary["cases"]
        [(case["name"], case["waterfall"], case["metrics"]["ttft"]) for case in cases]
        return cases if summary["status"] == ENDED_WELL else []
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageProblem(f"{path} is no run's summary") from None


def summaries(given: Iterable[Path]) -> list[Path]:
    """Summary files: those named, a run folder's, and those of an outputs folder's runs."""
    files = []
    for path in given:
        of_runs = sorted([*path.glob("*_summary.json"), *path.glob("runs/*/*_summary.json")])
        if path.is_dir() and not of_runs:
            raise UsageProblem(f"no run in {path}")
        files += of_runs if path.is_dir() else [path]
    return files


def markdown(cases: Sequence[Share]) -> str:
    rows = [
        (
            each.case,
            len(each.shares),
            f"{median(each.handoff) * 1e3:.1f}",
            f"{median(each.ttft) * 1e3:.0f}",
            f"{median(each.shares):.2%}",
            "{:.2%} to {:.2%}".format(*each.interval) if each.interval else f"– (needs {MIN_PAIRS} sessions)",
        )
        for each in cases
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
        cases = shares(summaries(given.paths), given.statistic)
    except UsageProblem as problem:
        parser.exit(2, f"ERROR: {problem}\n")
    print(markdown(cases))
    if given.json:
        store.replace(given.json, json.dumps([each.as_json() for each in cases], indent=1) + "\n")


if __name__ == "__main__":
    main()
