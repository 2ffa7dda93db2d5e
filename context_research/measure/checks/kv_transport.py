"""Which way the KV goes between two engines, and what a plain copy does there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_research.errors import EngineFailure
from context_research.hardware.devices import visible_gpus
from context_research.hardware.placement import Placement
from context_research.settings.schema import Device

UNNAMED = "transport not named"
_UNTOLD = "UCX's account is not in the decode engine's log: unset UCX_PROTO_INFO and UCX_LOG_FILE"
_GRACE_S = 0.02
"""A transfer that is done is noticed in the engine's next step."""
_FLOOR, _FLOOR_ONE_GPU = 0.05, 0.002
"""Share of a plain copy that a transfer must reach. Inside one GPU a plain copy runs at the speed of its memory, and
NIXL's descriptors decide: 21 to 77 GB/s were seen against 1,920 on an H200, and 0.5 over TCP."""
_TABLE = re.compile(r"\| [^|]*remote memory read by ucp_get[^|]*\|")
_LARGEST = re.compile(r"\|\s*\d+\.\.inf\s*\|\s*(?P<how>[^|]+?)\s*\|\s*(?P<way>[^|]+?)\s*\|\s*$")
_COPIED = 64 << 20
_COPIED_ON_GPU = 256 << 20
_ROUNDS = 5
_GPU_PROBE_S = 120.0


@dataclass(frozen=True, slots=True)
class Transport:
    """`name` is UCX's for large reads, `ceiling` a plain copy's bytes a second between the same devices.

    `cure` says what to change where the devices could do better than this transport, else it is empty.
    """

    name: str
    ceiling: float
    cure: str = ""
    floor: float = _FLOOR
    grace_s: float = _GRACE_S

    def allowed_s(self, size: int) -> float:
        """Seconds that a transfer of `size` bytes may take."""
        return size / (self.floor * self.ceiling) + self.grace_s


def seen(logs: Sequence[Path], ceiling: float, device: Device, placements: Sequence[Placement]) -> Transport:
    """What the decode engines' logs say of their transport, judged for engines of one host: the worst of them."""
    shared = device == "cuda" and len(set(_both_ends(placements))) == 1
    floor = _FLOOR_ONE_GPU if shared else _FLOOR
    found = [_of_large_reads(log, device) for log in logs]
    named = [each for each in found if each is not None]
    # An engine that no request reached has said nothing, and moved nothing.
    if not named:
        return Transport(UNNAMED, ceiling, _UNTOLD, floor)
    how, way = next((each for each in named if "tcp" in each[1]), named[0])
    return Transport(f"{how} over {way}", ceiling, _cure(device) if "tcp" in way else "", floor)


def _of_large_reads(log: Path, device: Device) -> tuple[str, str] | None:
    """Description and lanes in UCX's last table of remote reads, of GPU memory where there is one."""
    tables: list[tuple[str, str, str]] = []
    title = None
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else []:
        if _TABLE.search(line):
            title = line
        elif title and (row := _LARGEST.search(line)):
            tables.append((title, row["how"], row["way"]))
            title = None
    wanted = [table for table in tables if device == "cpu" or "cuda" in table[0]] or tables
    return wanted[-1][1:] if wanted else None


def _cure(device: Device) -> str:
    """What to change where UCX took TCP between two engines of one host."""
    told = "TCP, where both engines are on one host: "
    if limited := [f"{name}={os.environ[name]}" for name in ("UCX_TLS", "UCX_NET_DEVICES") if name in os.environ]:
        return told + f"unset {', '.join(limited)}"
    if device == "cuda":
        zcopy = os.environ.get("UCX_CUDA_IPC_ENABLE_GET_ZCOPY")
        if zcopy not in (None, "on", "y"):
            return told + f"set UCX_CUDA_IPC_ENABLE_GET_ZCOPY=on (it is {zcopy})"
        return told + "check that this UCX has cuda_ipc (ucx_info -d), and that both engines see both GPUs"
    return told + "UCX needs shared memory or CMA (a container: --ipc=host or --cap-add=SYS_PTRACE)"


def copy_ceiling(device: Device, placements: Sequence[Placement]) -> float:
    """Bytes a second of a plain copy between the prefill and the decode engine's first devices.

    Raises EngineFailure where a GPU can't be reached.
    """
    if device == "cpu":
        source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)
        return _COPIED / min(_timed(lambda: np.copyto(target, source)) for _ in range(_ROUNDS))
    return _gpu_copy(*_both_ends(placements))


def _both_ends(placements: Sequence[Placement]) -> tuple[int, int]:
    by_role = {placement.spec.role: placement for placement in placements}
    return by_role["prefill"].devices[0], by_role["decode"].devices[0]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _gpu_copy(source: int, target: int) -> float:
    """In a process of its own: CUDA in this one would keep memory of the card, and forbid forking."""
    gpus = visible_gpus()
    environment = os.environ | {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(dict.fromkeys((gpus[source], gpus[target]))),
    }
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "context_research.measure.checks.kv_transport"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_GPU_PROBE_S,
            check=True,
        )
        return float(ended.stdout.split()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        stderr = getattr(error, "stderr", None)
        told = (stderr if isinstance(stderr, str) and stderr else str(error)).strip().splitlines()[-1:]
        raise EngineFailure(f"no copy between GPUs {source} and {target} could be measured: {' '.join(told)}") from None


def _main() -> None:
    """Print bytes a second from the first to the last visible GPU."""
    import torch

    source = torch.ones(_COPIED_ON_GPU, dtype=torch.uint8, device="cuda:0")
    target = torch.empty_like(source, device=f"cuda:{torch.cuda.device_count() - 1}")

    def copy() -> None:
        target.copy_(source)
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)

    for _ in range(2):
        copy()
    print(_COPIED_ON_GPU / min(_timed(copy) for _ in range(_ROUNDS)))


if __name__ == "__main__":
    _main()
