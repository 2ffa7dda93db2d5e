"""Which devices this machine has, found without importing torch or vLLM."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypedDict

import psutil

from context_research.settings.schema import Device


@contextmanager
def nvml() -> Iterator[Any]:
    """NVIDIA's management library (nvidia-ml-py), or None where no driver answers."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def visible_gpus() -> list[str]:
    """GPU ids as CUDA_VISIBLE_DEVICES names them (indices or UUIDs); empty without an NVIDIA driver."""
    with nvml() as library:
        count = library.nvmlDeviceGetCount() if library else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")] if count else []


def detect() -> tuple[Device, str]:
    """The device kind of this machine, and why."""
    gpus = visible_gpus()
    if gpus:
        return "cuda", f"an NVIDIA driver answers, GPUs visible: {','.join(gpus)}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    with nvml() as library:
        if library and hidden is not None:
            return "cpu", f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU"
    return "cpu", "no NVIDIA driver answers"


def named(indices: Iterable[int]) -> list[str]:
    """These GPUs, indices into the visible ones, as CUDA_VISIBLE_DEVICES names them."""
    gpus = visible_gpus()
    return [gpus[index] for index in indices]


def lasting_names(kind: Device, indices: Iterable[int]) -> list[str]:
    """Names that mean one device of this machine, whatever is visible: ``core-0``, a GPU's UUID."""
    if kind == "cpu":
        return [f"core-{index}" for index in indices]
    with nvml() as library:
        return [] if library is None else [library.nvmlDeviceGetUUID(handle(library, gpu)) for gpu in named(indices)]


@dataclass(frozen=True, slots=True)
class Machine:
    """What engines can be placed on. `indices` are CPU cores, or GPUs counted among the visible ones.

    `memory_bytes`: of each GPU, in the order of `indices`; of a CPU machine the whole, once. Empty where nobody told.
    """

    kind: Device
    indices: tuple[int, ...]
    memory_bytes: tuple[int, ...] = ()

    def memory_of(self, devices: Iterable[int]) -> tuple[int, ...]:
        """Bytes of each of these GPUs; of a CPU machine the whole, whichever its cores. Empty where nobody told."""
        if self.kind == "cpu":
            return self.memory_bytes
        by_index = dict(zip(self.indices, self.memory_bytes, strict=False))
        return tuple(by_index[device] for device in devices if device in by_index)

    def seeing(self, devices: Iterable[int]) -> Machine:
        """What a process finds that sees these alone: GPUs count from 0 there, cores keep their numbers."""
        own = tuple(devices)
        return Machine(self.kind, own if self.kind == "cpu" else tuple(range(len(own))), self.memory_of(own))


def this_machine(kind: Device) -> Machine:
    """The CPU cores that this process may use, or the GPUs that it sees."""
    if kind == "cpu":
        return Machine("cpu", tuple(sorted(os.sched_getaffinity(0))), (int(psutil.virtual_memory().total),))
    gpus, memory = visible_gpus(), tuple[int, ...]()
    with nvml() as library:
        if library is not None:
            memory = tuple(int(library.nvmlDeviceGetMemoryInfo(handle(library, name)).total) for name in gpus)
    return Machine("cuda", tuple(range(len(gpus))), memory)


def joules(indices: Iterable[int]) -> float | None:
    """Energy that these GPUs (indices into the visible ones) have used since the driver was loaded; differences count.

    None without a GPU, and where NVML does not report it (before Volta). Whole cards, idle or not.
    """
    with nvml() as library:
        if library is None:
            return None
        handles = [handle(library, gpu) for gpu in named(indices)]
        used = [
            _or_none(library, library.nvmlDeviceGetTotalEnergyConsumption, handle, scale=1e-3) for handle in handles
        ]
    return None if None in used or not used else float(sum(filter(None, used)))


def handle(library: Any, name: str) -> Any:
    """NVML's handle of a GPU, by index or UUID."""
    return library.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else library.nvmlDeviceGetHandleByUUID(name)


class Cpu(TypedDict):
    model: str | None
    cores: list[int]
    memory_bytes: int


class Gpu(TypedDict):
    """One card as NVML has it: bytes, watts, MHz now and at most. None where NVML does not say."""

    id: str
    name: str
    memory_bytes: int
    power_limit_w: float | None
    sm_clock_mhz: float | None
    sm_clock_max_mhz: float | None
    memory_clock_mhz: float | None
    memory_clock_max_mhz: float | None


class Description(TypedDict):
    """`topology`: pair of GPU ids -> NVML's level of their common ancestor."""

    cpu: Cpu
    gpus: list[Gpu]
    driver: str | None
    topology: dict[str, int]


def describe() -> Description:
    """Devices, driver and topology for the environment manifest."""
    cpu: Cpu = {
        "model": _cpu_model(),
        "cores": sorted(os.sched_getaffinity(0)),
        "memory_bytes": int(psutil.virtual_memory().total),
    }
    with nvml() as library:
        if library is None:
            return {"cpu": cpu, "gpus": [], "driver": None, "topology": {}}
        handles = {name: handle(library, name) for name in visible_gpus()}
        return {
            "cpu": cpu,
            "gpus": [_gpu(library, name, handle) for name, handle in handles.items()],
            "driver": library.nvmlSystemGetDriverVersion(),
            "topology": {
                f"{a}-{b}": int(library.nvmlDeviceGetTopologyCommonAncestor(handles[a], handles[b]))
                for a, b in combinations(handles, 2)
            },
        }


def _gpu(library: Any, name: str, handle: Any) -> Gpu:
    now, most = library.nvmlDeviceGetClockInfo, library.nvmlDeviceGetMaxClockInfo
    return {
        "id": name,
        "name": library.nvmlDeviceGetName(handle),
        "memory_bytes": int(library.nvmlDeviceGetMemoryInfo(handle).total),
        "power_limit_w": _or_none(library, library.nvmlDeviceGetEnforcedPowerLimit, handle, scale=1e-3),
        "sm_clock_mhz": _or_none(library, now, handle, library.NVML_CLOCK_SM),
        "sm_clock_max_mhz": _or_none(library, most, handle, library.NVML_CLOCK_SM),
        "memory_clock_mhz": _or_none(library, now, handle, library.NVML_CLOCK_MEM),
        "memory_clock_max_mhz": _or_none(library, most, handle, library.NVML_CLOCK_MEM),
    }


def _or_none(library: Any, query: Any, *arguments: Any, scale: float = 1) -> float | None:
    try:
        return float(query(*arguments) * scale)
    except library.NVMLError:
        return None


def _cpu_model() -> str | None:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
