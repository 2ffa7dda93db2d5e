"""Where the engines of a run are: which devices it has, and how its engines share them and their memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from context_research.settings.options import integers
from context_research.settings.schema import EngineSpec, Settings


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one engine runs: `devices` are GPU indices (into the visible ones) or CPU cores."""

    spec: EngineSpec
    devices: tuple[int, ...]
    memory_share: float
    """Of the run's KV memory (CPU) or of each of its GPUs' memory (CUDA)."""
    memory_bytes: tuple[int, ...] = ()
    """What each of its GPUs has, or the machine (CPU); empty where nobody told."""


def run_devices(settings: Settings, machine: Machine) -> tuple[int, ...]:
    """The devices that a run's engines share: as given, else those the serving config names, or every core, or a GPU.

    Raises UsageProblem for a device that the machine does not have.
    """
    have = list(machine.indices)
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


def place(settings: Settings, machine: Machine) -> list[Placement]:
    """Split the run's devices and memory evenly over the engines, except where the serving config names them.

    With fewer devices than engines, engines share a device and its memory.
    Raises UsageProblem for named devices outside the run's, and for shares that add up to more than the whole.
    """
    specs, devices = settings.serving.engines, run_devices(settings, machine)
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
        own, share = chosen[spec.name], spec.memory_share or (1 - total) / unnamed
        placements.append(Placement(spec, own, share, machine.memory_of(own)))
    return placements


def _chunk(devices: tuple[int, ...], index: int, parts: int) -> tuple[int, ...]:
    if len(devices) < parts:
        return (devices[index % len(devices)],)
    size, larger = divmod(len(devices), parts)
    start = index * size + min(index, larger)
    return devices[start : start + size + (index < larger)]
