"""Writes into the shipped device profiles how far simulated figures were from real ones, by the kept fidelity reports.

python benchmarks/studies/simulation/profile_errors.py            # writes the block `fidelity` of the YAML files
python benchmarks/studies/simulation/profile_errors.py --check    # writes nothing; exits with 1 if one is not current

A report counts for the profile it was made with, as that is shipped: simulations with a profile calibrated since say
nothing of it. p50s alone: of tails few reports have enough samples.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import yaml

from context_research.engines.simulated import profiles

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"
REPORTS = {
    "h200": sorted((RESULTS / "simulation-h200").glob("*as-shipped.md")),
    # Held out: the profile that was fitted there is the one that is shipped.
    "cpu-2core": [RESULTS / "simulation-cpu" / "fidelity.md"],
}
STATISTIC = "p50"
_ROW = re.compile(r"^\|[^|]+\|[^|]+\| (?P<metric>\w+) (?P<statistic>p\d+) +\|(?:[^|]+\|){3} (?P<error>[+-][\d.]+)% +\|")
"""A line of a report's table of errors that has one."""


def errors(report: Path) -> Iterator[tuple[str, float]]:
    """Metric and |simulated ÷ real − 1| of each p50 in a report's table."""
    for line in report.read_text().splitlines():
        if (row := _ROW.match(line)) and row["statistic"] == STATISTIC:
            yield row["metric"], abs(float(row["error"])) / 100


def known(profile: str) -> profiles.Fidelity:
    """What the kept reports say of a profile."""
    found: dict[str, list[float]] = {}
    for report in REPORTS[profile]:
        for metric, error in errors(report):
            found.setdefault(metric, []).append(error)
    return profiles.Fidelity(
        errors={
            metric: {
                STATISTIC: profiles.KnownError(
                    median=round(median(some), 4), worst=round(max(some), 4), figures=len(some)
                )
            }
            for metric, some in found.items()
        },
        sources=tuple(str(report.relative_to(ROOT)) for report in REPORTS[profile]),
    )


def with_block(text: str, fidelity: profiles.Fidelity) -> str:
    """A profile's YAML with its block, which is the last."""
    rest = text.partition("\nfidelity:")[0].rstrip("\n")
    block = yaml.safe_dump({"fidelity": fidelity.model_dump(mode="json")}, sort_keys=False)
    return f"{rest}\n{block}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    only_check, stale = parser.parse_args().check, []
    for name in REPORTS:
        path = ROOT / "configs" / "devices" / f"{name}.yaml"
        text = path.read_text()
        if (now := with_block(text, known(name))) != text:
            stale.append(path)
            if not only_check:
                path.write_text(now)
    for path in stale:
        print(f"{'not current' if only_check else 'written'}: {path.relative_to(ROOT)}")
    return int(only_check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
