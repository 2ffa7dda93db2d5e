"""What was observed, request by request: requests.jsonl read back as the repeats that metrics are defined on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_research.errors import UsageProblem
from context_research.measure.metrics import Repeat
from context_research.records.files import RunFiles
from context_research.request import Timeline


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison, or one run by itself.

    `units[i]` holds the i-th unit's repeats by case. Units are what statistics count: sessions of an A/B, each on
    engines of its own, or the repeats of one run. Unit i of one arm is paired with unit i of the other.
    """

    label: str
    units: tuple[Mapping[str, list[Repeat]], ...]

    @property
    def cases(self) -> list[str]:
        """Names of the cases, in the order in which they ran."""
        return list(dict.fromkeys(case for unit in self.units for case in unit))

    def repeats(self, case: str) -> list[Repeat]:
        """Every repeat of `case`, whichever unit's."""
        return [repeat for unit in self.units for repeat in unit.get(case, ())]


def read(files: RunFiles) -> dict[str, list[Repeat]]:
    """The repeats of every case of a run. Raises UsageProblem: requests.jsonl is missing or corrupt."""
    served: dict[tuple[str, int], list[Timeline]] = {}
    for case, timeline in _timelines(files.requests):
        if timeline.phase != "warmup":
            served.setdefault((case, timeline.repeat), []).append(timeline)
    found: dict[str, list[Repeat]] = {}
    for (case, _), timelines in served.items():
        measured = (timeline for timeline in timelines if timeline.phase == "measured")
        found.setdefault(case, []).append(Repeat.of(measured, timelines))
    return found


def by_repeat(cases: Mapping[str, list[Repeat]]) -> tuple[dict[str, list[Repeat]], ...]:
    """One unit for each repeat of a run."""
    count = max(map(len, cases.values()), default=0)
    return tuple({case: repeats[i : i + 1] for case, repeats in cases.items()} for i in range(count))


def _timelines(path: Path) -> Iterator[tuple[str, Timeline]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _timeline(json.loads(line), path, number)
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageProblem(f"{path} is corrupt, no JSON lines ({error})") from None


def _timeline(record: dict[str, Any], path: Path, number: int) -> tuple[str, Timeline]:
    try:
        case = record.pop("case")
        record.pop("waterfall", None)
        record["token_ids"] = []  # not needed, and half of the memory
        return case, Timeline(**record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageProblem(f"{path} is corrupt or from another version: line {number}: {error}") from None
