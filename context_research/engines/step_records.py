"""Step records: what each step of a real engine computed and how long it took, in a file that calibration reads.

Written in the engine's own process (engines/vllm/step_recorder.py), so nothing here imports vLLM or torch.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np

from context_research.engines.batch import Batch
from context_research.errors import UsageProblem

PATH = "CONTEXT_RESEARCH_STEPS"
"""Environment variable: the file in which an engine that starts now keeps its steps."""
COLUMNS = {"done": float, "seconds": float, **{one.name: int for one in fields(Batch)}}
"""`done`: when the step ended, in perf_counter seconds, the clock of requests.jsonl; `seconds`: how long it took."""
_HEADER = ",".join(COLUMNS)
_DTYPE = np.dtype([(name, np.float64 if kind is float else np.int64) for name, kind in COLUMNS.items()])
_BUFFERED = 256
"""Steps kept in memory at most: what an engine that is killed loses."""

_logger = logging.getLogger("vllm.context_research")  # below vLLM's, whose handlers write to the engine's log


class Clock:
    """Durations of an engine's steps, which never overlap and leave no busy time out.

    A step is done when its output has been processed. It lasts from the end of the one before to its own end; after an
    idle time, from the call of `schedule`. With vLLM's async scheduling, where batches overlap, a step counts only the
    time that it adds.
    """

    def __init__(self) -> None:
        self._done = -math.inf
        self._idle = True

    def seconds(self, scheduled: float, done: float) -> float:
        """Duration of a step of which `schedule` was called at `scheduled` and that is done now; in order of `done`."""
        began = max(scheduled, self._done) if self._idle else self._done
        self._done, self._idle = done, False
        return done - began

    def idle(self) -> None:
        """The engine had nothing to compute since the last step: no request, or all wait for something else."""
        self._idle = True


class Writer:
    """Appends steps to a file. Buffered; the file holds whole lines at any time, even if the process is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole lines in one unbuffered append: what the system has got survives the process.
        self._stream = path.open("ab", buffering=0)
        if self._stream.tell() == 0:
            self._stream.write(f"{_HEADER}\n".encode())

    def add(self, done: float, seconds: float, batch: Batch) -> None:
        """Keep one step; every few hundred go to the file."""
        self._lines.append(
            f"{done:.6f},{seconds:.7f},{batch.prefill_requests},{batch.prefill_tokens},{batch.prefill_kv_tokens},"
            f"{batch.prefill_pairs},{batch.decode_requests},{batch.decode_kv_tokens}\n"
        )
        if len(self._lines) >= _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write what is kept. A full disk ends the recording, not the engine."""
        if not self._lines:
            return
        lines, self._lines = "".join(self._lines).encode(), []
        try:
            self._stream.write(lines)
        except OSError as error:
            _logger.warning("%s: steps are lost (%s)", self.path, error.strerror)


def read(path: Path) -> np.ndarray:
    """A file's steps, in order: a structured array with a field for each of COLUMNS; empty if no step was recorded.

    Raises UsageProblem: missing, corrupt, not such a file.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            if (header := stream.readline().rstrip("\n")) != _HEADER:
                raise ValueError(f"its first line is {header!r:.60}")
            with warnings.catch_warnings(action="ignore"):  # loadtxt warns of a file without steps
                steps = np.loadtxt(stream, _DTYPE, delimiter=",", ndmin=1, comments=None)
        wrong = ~(np.isfinite(steps["done"]) & np.isfinite(steps["seconds"]) & (steps["seconds"] > 0))
        for name in list(COLUMNS)[2:]:
            wrong |= steps[name] < 0
        if wrong.any():
            raise ValueError(f"line {int(np.argmax(wrong)) + 2} can't be a step")
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        told = " ".join(str(error).split())[:200]
        raise UsageProblem(f"{path} is corrupt or holds no engine's steps: {told}") from None
    return steps


def path_of(log: Path) -> Path:
    """Where the engine with this log keeps its steps.

    In the folder `steps` beside the run's `logs`, under the same name (``logs/gw0/a.log``: ``steps/gw0/a.csv``); for a
    log elsewhere, in a folder `steps` beside it.
    """
    name = log.with_suffix(".csv").name
    for folder in log.parents[:2]:  # the worker's folder is between, under xdist
        if folder.name == "logs":
            return folder.with_name("steps") / log.parent.relative_to(folder) / name
    return log.parent / "steps" / name


def given() -> Path:
    """The path that the environment gives the engine that starts in this process."""
    return Path(os.environ[PATH])
