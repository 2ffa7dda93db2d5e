"""What else a machine did while requests were measured: who had its cores, who was throttled.

Read before and after, never in between. From /proc and cgroups (psutil), and NVML.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from context_research.hardware import devices, processes
from context_research.hardware.processes import Process
from context_research.settings.schema import Device

_CGROUPS = Path("/sys/fs/cgroup")


_SLOWED = ("HwSlowdown", "HwThermalSlowdown", "SwThermalSlowdown", "HwPowerBrakeSlowdown", "SwPowerCap")
"""Reasons of NVML's for lower clocks that are recorded. A power cap is none to worry about: full load reaches it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card. `hot`: seconds that heat slowed it; `clock_mhz` of its SMs now, and NVML's `reasons` for no more;
    `foreign`: processes on it that are none of ours. None: NVML does not tell."""

    hot: float | None
    clock_mhz: float | None
    reasons: tuple[str, ...] = ()
    foreign: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Sums since some fixed moment, in seconds: differences count.

    `busy`: of the run's cores together, other machines' time on them (`stolen`) too. `own`: CPU time of this process
    and of all that it started. `throttled`: how long a cgroup's quota held them up; None: nobody tells.
    """

    at: float
    busy: float
    stolen: float
    own: Mapping[Process, float]
    throttled: float | None
    gpus: Mapping[str, Gpu] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """Between two readings, as shares of the time (of the run's cores: `others` and `stolen`).

    `average` is the load average of the last minute. `gpus`, by id: as the last reading has them, but for `hot`, which
    is a share, too.
    """

    seconds: float
    others: float
    stolen: float
    throttled: float | None
    average: float
    gpus: Mapping[str, Gpu] = field(default_factory=dict)


def read(kind: Device, used: Sequence[int], named: Iterable[Process] = ()) -> Reading:
    """Of the cores or GPUs `used`; a GPU run has every core that this process may use. `named`: engines' processes."""
    cores, own = psutil.cpu_times(percpu=True), dict(_own(named))
    chosen = [cores[core] for core in _cores(kind, used) if core < len(cores)]
    return Reading(
        time.perf_counter(),
        sum(sum(core[:8]) - core.idle - getattr(core, "iowait", 0.0) for core in chosen),
        sum(getattr(core, "steal", 0.0) for core in chosen),
        own,
        _throttled(),
        _gpus(used, {process.pid for process in own}) if kind == "cuda" else {},
    )


def between(first: Reading, last: Reading, kind: Device, used: Sequence[int]) -> Load:
    """What happened from one reading to the other."""
    seconds = max(last.at - first.at, 1e-9)
    capacity = seconds * len(_cores(kind, used))
    own = sum(spent - first.own.get(process, 0.0) for process, spent in last.own.items())
    # The kernel counts hundredths of a second: a share may come out a little over the whole, or under nothing.
    stolen = min(max(0.0, (last.stolen - first.stolen) / capacity), 1.0)
    away = min(max(stolen, (last.busy - first.busy - own) / capacity), 1.0)
    held = None if first.throttled is None or last.throttled is None else last.throttled - first.throttled
    return Load(
        seconds,
        away - stolen,
        stolen,
        None if held is None else held / capacity,  # the kernel adds up what each core was held
        os.getloadavg()[0],
        {name: _since(gpu, first.gpus.get(name), seconds) for name, gpu in last.gpus.items()},
    )


def _since(last: Gpu, first: Gpu | None, seconds: float) -> Gpu:
    if first is None or first.hot is None or last.hot is None:
        return replace(last, hot=None)
    return replace(last, hot=(last.hot - first.hot) / seconds)


def _cores(kind: Device, used: Sequence[int]) -> Sequence[int]:
    return used if kind == "cpu" else sorted(os.sched_getaffinity(0))


def _own(named: Iterable[Process]) -> Iterable[tuple[Process, float]]:
    """CPU seconds of this process, of the `named` ones, and of all that they started."""
    for process in processes.with_descendants([Process.of(psutil.Process()), *named]):
        try:
            spent = process.cpu_times()
            yield Process.of(process), spent.user + spent.system
        except psutil.Error:
            continue


def _throttled() -> float | None:
    """Seconds, of this process's cgroup: version 2's `throttled_usec`, version 1's `throttled_time` (nanoseconds)."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for folder in (path.lstrip("/"), ""):  # in a container its own cgroup is often mounted as the root
            try:
                told = (_CGROUPS / ("cpu" if controllers else "") / folder / "cpu.stat").read_text(encoding="utf-8")
            except OSError:
                continue
            counts = dict(entry.split() for entry in told.splitlines())
            if "throttled_usec" in counts:
                return int(counts["throttled_usec"]) / 1e6
            if "throttled_time" in counts:
                return int(counts["throttled_time"]) / 1e9
    return None


def _gpus(used: Iterable[int], own: set[int]) -> dict[str, Gpu]:
    with devices.nvml() as library:
        names = devices.named(used) if library is not None else []
        return {name: _gpu(library, devices.handle(library, name), own) for name in names}


def _gpu(library: Any, handle: Any, own: set[int]) -> Gpu:
    heat = _asked(library, library.nvmlDeviceGetViolationStatus, handle, library.NVML_PERF_POLICY_THERMAL)
    reasons = _asked(library, library.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    running = _asked(library, library.nvmlDeviceGetComputeRunningProcesses, handle) or ()
    return Gpu(
        None if heat is None else heat.violationTime / 1e9,
        _asked(library, library.nvmlDeviceGetClockInfo, handle, library.NVML_CLOCK_SM),
        tuple(name for name in _SLOWED if reasons & getattr(library, f"nvmlClocksThrottleReason{name}")),
        # Only processes that are seen here: a container's GPU may name those of another, or ours by other ids.
        tuple(sorted(one.pid for one in running if one.pid not in own and psutil.pid_exists(one.pid))),
    )


def _asked(library: Any, query: Any, *arguments: Any) -> Any:
    try:
        return query(*arguments)
    except library.NVMLError:
        return None
