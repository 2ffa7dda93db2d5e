"""What was observed, request by request: requests.jsonl read back as the repeats that metrics are defined on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from context_research.measure.metrics import Repeat
from context_research.records import requests, store
from context_research.records.files import RunFiles
from context_research.records.requests import WindowRecord
from context_research.records.run import RunRecord
from context_research.records.summary import CapacityRecord
from context_research.request import Timeline

Cases = dict[str, list[Repeat]]
"""Case -> its repeats."""
CLASS = "class"
"""The axis that `Arm.by_class` adds."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison, or one run by itself.

    `units[i]` holds the i-th unit's repeats by case. Units are what statistics count: sessions of an A/B, each on
    engines of its own, or the repeats of one run. Unit i of one arm is paired with unit i of the other. `axes`: case
    -> name of an axis -> value.
    """

    label: str
    units: tuple[Mapping[str, list[Repeat]], ...]
    axes: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    overloaded: frozenset[str] = frozenset()
    """Cases without a steady state: their latencies say how long the run was."""
    name: str = ""
    """Short, where there are several: that of an A/B's arm."""
    measured: bool = True
    """Not simulated: its units differ by chance, too."""
    capacities: tuple[tuple[CapacityRecord, ...], ...] = ()
    """Each session's, of runs that have some."""

    @property
    def cases(self) -> list[str]:
        """Names of the cases, in the order in which they ran."""
        return list(dict.fromkeys(case for unit in self.units for case in unit))

    def repeats(self, case: str) -> list[Repeat]:
        """Every repeat of `case`, whichever unit's."""
        return [repeat for unit in self.units for repeat in unit.get(case, ())]

    def without(self, cases: Collection[str]) -> Arm:
        """The same without these cases."""
        kept = ({case: some for case, some in unit.items() if case not in cases} for unit in self.units)
        return replace(self, units=tuple(kept))

    def by_class(self) -> Arm:
        """A case for each class of a case's load, ``rate_4 chat``; those without classes as they are."""
        units: list[dict[str, list[Repeat]]] = []
        axes, overloaded = dict(self.axes), set(self.overloaded)
        for unit in self.units:
            units.append({})
            for case, repeats in unit.items():
                names = list(dict.fromkeys(name for repeat in repeats for name in repeat.classes))
                for name in names or [""]:
                    own = f"{case} {name}".strip()
                    units[-1][own] = [repeat.of_class(name) for repeat in repeats] if name else repeats
                    if name:
                        axes[own] = {**self.axes.get(case, {}), CLASS: name}
                    if case in self.overloaded:
                        overloaded.add(own)
        return replace(self, units=tuple(units), axes=axes, overloaded=frozenset(overloaded))


def read(files: RunFiles, lines: int | None = None) -> Cases:
    """The repeats of every case of a run, as they were measured. Raises UsageProblem: a file is missing or corrupt.

    `lines`: how many of its requests.jsonl count; what a killed run had begun to add does not. None: all.
    """
    windows: dict[tuple[str, int], WindowRecord] = {}
    served: dict[tuple[str, int], list[Timeline]] = {}
    for line in requests.read(files.requests, lines):
        if isinstance(line, WindowRecord):
            windows[line.case, line.repeat] = line
        elif line.phase != "warmup":
            served.setdefault((line.case, line.repeat), []).append(line.timeline())
    found: Cases = {}
    for (case, number), timelines in served.items():
        if (case, number) not in windows:
            windows |= _of_version_1(files, served)
        found.setdefault(case, []).append(Repeat.read(windows[case, number], timelines))
    return found


def by_repeat(cases: Mapping[str, list[Repeat]]) -> tuple[dict[str, list[Repeat]], ...]:
    """One unit for each repeat of a run."""
    count = max(map(len, cases.values()), default=0)
    return tuple({case: repeats[i : i + 1] for case, repeats in cases.items()} for i in range(count))


def _of_version_1(
    files: RunFiles, served: Mapping[tuple[str, int], list[Timeline]]
) -> Iterator[tuple[tuple[str, int], WindowRecord]]:
    """The windows of a run that wrote none: devices and SLO are in its metadata, transfers and energy in no file."""
    run = store.read(files.metadata, RunRecord)
    devices = len(run.used_devices) if run.device == "cuda" else 1
    for (case, number), timelines in served.items():
        own = Repeat.of((t for t in timelines if t.phase == "measured"), timelines, devices=devices or 1)
        yield (case, number), own.window(case, number, 0.0).model_copy(update={"slo": run.resolved_settings().slo})
