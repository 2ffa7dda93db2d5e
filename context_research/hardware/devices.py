"""Which devices this machine has, found without importing torch or vLLM."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from context_research.engines.simulated import profiles
from context_research.errors import UsageProblem
from context_research.settings.options import integers
from context_research.settings.schema import Device, EngineSpec, Settings


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


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one engine runs: `devices` are GPU indices (into the visible ones) or CPU cores."""

    spec: EngineSpec
    devices: tuple[int, ...]
    memory_share: float
    """Of the run's KV memory (CPU) or of each of its GPUs' memory (CUDA)."""


def run_devices(settings: Settings) -> tuple[int, ...]:
    """The devices that a run's engines share: as given, else those the serving config names, or every core, or a GPU.

    Raises UsageProblem for a device that this machine does not have.
    """
    have = indices(settings)
    if not have:
        raise UsageProblem(
            "device cuda, but no GPU is visible here: check the driver, CUDA_VISIBLE_DEVICES, or --device=cpu"
        )
    named = tuple(sorted({device for spec in settings.serving.engines for device in spec.devices or ()}))
    chosen = settings.devices or named
    if not chosen:
        return tuple(have) if settings.device == "cpu" else tuple(have[:1])
    if len(set(chosen)) < len(chosen):
        raise UsageProblem(f"devices {list(chosen)} name a device twice (--devices)")
    if missing := [device for device in chosen if device not in have]:
        kind = "CPU cores" if settings.device == "cpu" else "GPUs"
        raise UsageProblem(f"devices {missing} are not here: the {kind} of this machine are {have} (--devices)")
    return chosen


def indices(settings: Settings) -> list[int]:
    """The CPU cores or GPUs of this machine, or of the simulated one."""
    if settings.simulated:
        return list(range(profiles.load(str(settings.device_profile)).count))
    return sorted(os.sched_getaffinity(0)) if settings.device == "cpu" else list(range(len(visible_gpus())))


def groups(text: str, have: Sequence[int], whose: str) -> list[list[int]]:
    """``"0,1;2,3"`` -> ``[[0, 1], [2, 3]]``. Raises UsageProblem: a device twice, or not in `have`, `whose` devices."""
    try:
        found = [integers(part) for part in text.split(";")]
    except ValueError:
        raise UsageProblem(f"--device-groups={text}: expected groups of device ids, such as '0,1;2,3'") from None
    named = [device for group in found for device in group]
    if len(set(named)) < len(named):
        raise UsageProblem(f"--device-groups={text}: a device is in two groups")
    if missing := sorted(set(named) - set(have)):
        raise UsageProblem(f"--device-groups={text}: devices {missing} are not among {whose}: {list(have)}")
    return found


def place(settings: Settings, devices: tuple[int, ...]) -> list[Placement]:
    """Split `devices` and memory evenly over the engines, except where the serving config names them.

    With fewer devices than engines, engines share a device and its memory.
    Raises UsageProblem for named devices outside the run's, and for shares that add up to more than the whole.
    """
    specs = settings.serving.engines
    for spec in specs:
        if outside := sorted(set(spec.devices or ()) - set(devices)):
            raise UsageProblem(
                f"engine {spec.name}: devices {outside} are not among the run's {list(devices)} (--devices)"
            )
    chosen = {spec.name: spec.devices or _chunk(devices, index, len(specs)) for index, spec in enumerate(specs)}
    placements = []
    for spec in specs:
        # KV memory on a CPU machine is one pool; on GPUs each card is its own.
        sharing = [
            other for other in specs if settings.device == "cpu" or set(chosen[other.name]) & set(chosen[spec.name])
        ]
        total = sum(other.memory_share or 0 for other in sharing)
        unnamed = sum(other.memory_share is None for other in sharing)
        if total > 1 + 1e-9 or (unnamed and total >= 1):
            raise UsageProblem(
                f"memory_share of {', '.join(o.name for o in sharing)} adds up to {total:.2f}: at most 1"
                + (", and less where an engine names none" if unnamed else "")
            )
        placements.append(Placement(spec, chosen[spec.name], spec.memory_share or (1 - total) / unnamed))
    return placements


def _chunk(devices: tuple[int, ...], index: int, parts: int) -> tuple[int, ...]:
    if len(devices) < parts:
        return (devices[index % len(devices)],)
    size, larger = divmod(len(devices), parts)
    start = index * size + min(index, larger)
    return devices[start : start + size + (index < larger)]


def memory_bytes(settings: Settings, index: int) -> int:
    """Total memory of one GPU, or of this machine; of the simulated one, where that is the backend."""
    if settings.simulated:
        return profiles.load(str(settings.device_profile)).memory_bytes
    if settings.device == "cpu":
        return int(psutil.virtual_memory().total)
    with nvml() as library:
        if library is None:
            raise UsageProblem("device cuda needs an NVIDIA driver, and none answers here: use --device=cpu")
        handle = _handle(library, visible_gpus()[index])
        return int(library.nvmlDeviceGetMemoryInfo(handle).total)


def joules(indices: Iterable[int]) -> float | None:
    """Energy that these GPUs (indices into the visible ones) have used since the driver was loaded; differences count.

    None without a GPU, and where NVML does not report it (before Volta). Whole cards, idle or not.
    """
    with nvml() as library:
        if library is None:
            return None
        handles = [_handle(library, visible_gpus()[index]) for index in indices]
        used = [
            _or_none(library, library.nvmlDeviceGetTotalEnergyConsumption, handle, scale=1e-3) for handle in handles
        ]
    return None if None in used or not used else float(sum(filter(None, used)))


def _handle(library: Any, name: str) -> Any:
    return library.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else library.nvmlDeviceGetHandleByUUID(name)


def describe() -> dict[str, Any]:
    """Devices, driver and topology for the environment manifest."""
    machine: dict[str, Any] = {
        "cpu": {
            "model": _cpu_model(),
            "cores": sorted(os.sched_getaffinity(0)),
            "memory_bytes": int(psutil.virtual_memory().total),
        },
        "gpus": [],
        "driver": None,
        "topology": {},
    }
    with nvml() as library:
        if library is None:
            return machine
        machine["driver"] = library.nvmlSystemGetDriverVersion()
        handles = {name: _handle(library, name) for name in visible_gpus()}
        machine["gpus"] = [
            {
                "id": name,
                "name": library.nvmlDeviceGetName(handle),
                "memory_bytes": int(library.nvmlDeviceGetMemoryInfo(handle).total),
                "power_limit_w": _or_none(library, library.nvmlDeviceGetEnforcedPowerLimit, handle, scale=1e-3),
                **{
                    f"{name}{suffix}": _or_none(library, ask, handle, getattr(library, clock))
                    for name, clock in (("sm_clock", "NVML_CLOCK_SM"), ("memory_clock", "NVML_CLOCK_MEM"))
                    for suffix, ask in (
                        ("_mhz", library.nvmlDeviceGetClockInfo),
                        ("_max_mhz", library.nvmlDeviceGetMaxClockInfo),
                    )
                },
            }
            for name, handle in handles.items()
        ]
        names = list(handles)
        machine["topology"] = {
            f"{a}-{b}": int(library.nvmlDeviceGetTopologyCommonAncestor(handles[a], handles[b]))
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        }
    return machine


def _or_none(library: Any, query: Any, *arguments: Any, scale: float = 1) -> float | None:
    try:
        return float(query(*arguments) * scale)
    except library.NVMLError:
        return None


def _cpu_model() -> str | None:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
