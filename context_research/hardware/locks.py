"""One run at a time on a device: two would disturb each other's figures. By user and machine; released by any end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import filelock

from context_research.errors import UsageProblem

TEMPORARY = Path("/tmp")


class Hold:
    """Devices held by this process until `release`; the kernel releases them, too, where it is killed."""

    def __init__(self, devices: Iterable[str], who: str) -> None:
        """`devices` are names that mean one device on this machine (``core-0``, a GPU's UUID); `who` is told to others.

        Raises UsageProblem where another run holds one of them, and names it.
        """
        self._locks: list[filelock.FileLock] = []
        try:
            self._take(sorted(devices), who)
        except OSError as error:
            self.release()
            raise UsageProblem(f"cannot lock the run's devices in {_folder()}: {error.strerror}") from None

    def _take(self, devices: Iterable[str], who: str) -> None:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for device in devices:
            lock, holder = filelock.FileLock(folder / f"{device}.lock", timeout=0), folder / f"{device}.run"
            try:
                lock.acquire()
            except filelock.Timeout:
                self.release()
                raise UsageProblem(
                    f"{device} is in use by {_told(holder)}: two runs on one device disturb each other's figures; wait "
                    "for its end, give --devices that are free, or --share-devices"
                ) from None
            self._locks.append(lock)
            holder.write_text(f"{who} (pid {os.getpid()})", encoding="utf-8")

    def release(self) -> None:
        """Let others have them. Safe to call twice."""
        for lock in self._locks:
            lock.release()
        self._locks = []


def _folder() -> Path:
    """One for all runs of a user: TMPDIR may differ from one to the next."""
    return TEMPORARY / f"context-research-{os.getuid()}"


def _told(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another run"
    except OSError:
        return "another run"
