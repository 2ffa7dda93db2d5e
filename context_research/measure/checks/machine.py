"""Whether the machine was the run's: nobody else's work on its devices, nothing that held its engines up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from context_research.engines.base import Engine
from context_research.hardware import processes
from context_research.hardware.load import Load
from context_research.hardware.placement import Placement
from context_research.measure.checks.outcomes import judged, not_provable
from context_research.records.case import CheckRecord, GpuLoadRecord, MachineLoadRecord
from context_research.settings.schema import Device

THROTTLED = 0.01
"""Of the measured time: the most that a quota or heat may have held the run up."""
_FULL_LOAD = "SwPowerCap"
LEAST_S = 0.5
"""Seconds from which a share of the cores says something: the kernel counts hundredths."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """How the operating system treats an engine: its niceness, and the cores that it may use and was to have."""

    niceness: tuple[int, ...]
    cores: tuple[int, ...]
    placed: tuple[int, ...]


def treatments(engines: Sequence[Engine], placements: Sequence[Placement], kind: Device) -> dict[str, Treatment]:
    """By engine's name; engines that don't name their processes are left out."""
    found = {}
    for engine, placement in zip(engines, placements, strict=True):
        if own := getattr(engine, "processes", ()):
            cores = tuple(sorted(processes.cores(own))) if kind == "cpu" else ()
            placed = placement.devices if kind == "cpu" else ()
            found[engine.name] = Treatment(tuple(sorted(processes.niceness(own))), cores, placed)
    return found


def record(seen: Load | None, engines: Mapping[str, Treatment]) -> MachineLoadRecord | None:
    """For the case's entry in the summary."""
    if seen is None:
        return None
    return MachineLoadRecord(
        others=seen.others,
        stolen=seen.stolen,
        throttled=seen.throttled,
        load_average=seen.average,
        gpus={name: GpuLoadRecord.model_validate(asdict(gpu)) for name, gpu in seen.gpus.items()},
        niceness={name: list(one.niceness) for name, one in engines.items()},
        cores={name: list(one.cores) for name, one in engines.items()},
    )


def judge(
    seen: Load | None, engines: Mapping[str, Treatment], most: float, own_niceness: int, shared: bool = False
) -> CheckRecord:
    """The check `machine`. `most`: the share of the run's cores that others may have; `own_niceness`: the client's;
    `shared`: others may have the GPUs, too."""
    if seen is None:
        return not_provable("machine", "nobody told what else the machine did")
    away = seen.others + seen.stolen
    throttled = "not told" if seen.throttled is None else f"{seen.throttled:.1%} of the time"
    evidence = (
        f"other processes had {seen.others:.0%} and other machines {seen.stolen:.0%} of the run's cores (at most "
        f"{most:.0%} together), load average {seen.average:.3g}; held up by a quota: {throttled}"
    )
    if clocks := [f"{gpu.clock_mhz:.0f}" for gpu in seen.gpus.values() if gpu.clock_mhz is not None]:
        evidence += f"; SM clocks {', '.join(clocks)} MHz"
    problems = [*_unequal(engines, own_niceness), *_slowed(seen, shared)]
    if away > most and seen.seconds >= LEAST_S:
        problems.insert(0, "that is too much: stop what else runs there, or allow it with --other-load")
    return judged("machine", not problems, "; ".join([evidence, *problems]))


def _unequal(engines: Mapping[str, Treatment], own: int) -> Iterator[str]:
    for name, one in engines.items():
        if other := [nice for nice in one.niceness if nice != own]:
            yield f"engine {name} has niceness {other[0]}, the client {own}"
        if one.cores and set(one.cores) != set(one.placed):
            yield f"engine {name} may use cores {list(one.cores)}, and was placed on {list(one.placed)}"


def _slowed(seen: Load, shared: bool) -> Iterator[str]:
    if seen.throttled is not None and seen.throttled > THROTTLED:
        yield f"a cgroup's CPU quota held the run up for {seen.throttled:.1%} of the time"
    for name, gpu in seen.gpus.items():
        if gpu.hot is not None and gpu.hot > THROTTLED:
            yield f"GPU {name} was slowed by heat for {gpu.hot:.1%} of the time"
        elif slowed := [reason for reason in gpu.reasons if reason != _FULL_LOAD]:
            yield f"GPU {name} is slowed: {', '.join(slowed)}"
        if gpu.foreign and not shared:
            yield f"GPU {name} has other processes: {', '.join(map(str, gpu.foreign))}"
