"""A run that is under way: by a lock others see that it lives, and disk space is kept for its last words.

Both are one file in the run's folder. The kernel gives the lock back however the process ends; a run whose record says
`running`, and whose lock can be had, was killed.
"""

from __future__ import annotations

import fcntl
import os
from typing import IO

from context_research.errors import UsageProblem
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.run import RunRecord

_LAST = 1 << 20
"""Bytes that are kept until the space was given back once: the run's record is written again after that."""
KILLED = "its process is gone: it was killed, or the machine went down"


class Running:
    """Held by the process that records the run."""

    def __init__(self, files: RunFiles, *, again: bool = False) -> None:
        """`again`: the run is resumed; a process that was killed may have left the file.

        Raises StorageFailure: there is no space for a run's last words; UsageProblem: another process resumed it.
        """
        self._path = files.running
        with store.writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = self._path.open("ab" if again else "xb")
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | (fcntl.LOCK_NB if again else 0))
            except BlockingIOError:
                raise UsageProblem(f"run {files.run_id} is running now: wait for its end, or end it") from None
            os.ftruncate(self._stream.fileno(), 0)
            store.fill(self._stream)

    def spend(self) -> None:
        """Give the disk space back, for what must be written now: most of it, and at the next call the rest."""
        if not self._stream.closed:
            left = _LAST if os.fstat(self._stream.fileno()).st_size > _LAST else 0
            os.ftruncate(self._stream.fileno(), left)

    def end(self) -> None:
        """The record says how the run ended."""
        self._path.unlink(missing_ok=True)
        if not self._stream.closed:
            fcntl.flock(self._stream, fcntl.LOCK_UN)  # engines that were forked have it open, too
            self._stream.close()


def read(files: RunFiles) -> RunRecord:
    """The run's record; of a run that was killed its `reason` says so. Raises UsageProblem: missing, corrupt."""
    found = store.read(files.metadata, RunRecord)
    if found.status == "running" and not _lives(files):
        return found.model_copy(update={"reason": KILLED})
    return found


def _lives(files: RunFiles) -> bool:
    try:
        with files.running.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is locked; or nothing can be said, as on a file system without locks
        return True
    return False
