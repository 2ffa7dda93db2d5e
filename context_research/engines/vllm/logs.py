"""Sends what vLLM and the libraries below it print to a file, from the moment an engine starts."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from context_research.records import store

_REASON = re.compile(r"(?:^|\s)((?:[\w.]+\.)?\w*(?:Error|Exception)): (.+)")
_NATIVE = re.compile(r"(?:terminate called after throwing|what\(\):|Fatal Python error:|!+ Segfault).*")
"""What native code says last."""
_UNHELPFUL = (
    "See root cause above",
    "EngineCore encountered an issue",
    "Engine core initialization failed",
    "EngineCore failed to start",
    "WorkerProc initialization failed",
    "KeyboardInterrupt",
    "SystemExit",
)
_CODES = re.compile(r"'\w+': (-?\d+)")
"""vLLM's "Failed core proc(s): {'EngineCore_DP0': -9}"."""
_SHARED, _ENOUGH = Path("/dev/shm"), 64 << 20
"""Memory that processes share: where there is too little an engine ends by whatever writes to it first."""
_HINTS = {
    "SIGKILL": " (the kernel does that to the largest process where memory runs out: dmesg says so)",
    "SIGBUS": " (is /dev/shm full?)",
}


@contextmanager
def to_file(path: Path) -> Iterator[None]:
    """While open, this process's output goes to `path`; children forked meanwhile keep writing there.

    Raises StorageFailure.

    File descriptors for C++ code (UCX, NIXL, oneDNN), sys.stdout and sys.stderr for Python's: under pytest they differ.
    """
    with store.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", encoding="utf-8", buffering=1)  # stays open: vLLM's logger in this process writes on
    kept = sys.stdout, sys.stderr
    for original in kept:
        original.flush()
    descriptors = os.dup(1), os.dup(2)
    try:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream
        _redirect_vllm_logger(stream)
        yield
    finally:
        _redirect_vllm_logger(stream)  # vLLM makes its handlers when first imported
        sys.stdout, sys.stderr = kept
        for number, descriptor in zip((1, 2), descriptors, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _redirect_vllm_logger(stream: TextIO) -> None:
    logger = logging.getLogger("vllm")
    logger.propagate = False  # else pytest shows its warnings with every failed test
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # not a subclass: pytest's own handlers are that
            handler.setStream(stream)


def reason(error: BaseException, log: Path, since: int = 0) -> str:
    """Why an engine failed, in one line: the error itself where it says so, else the last one in its log.

    `since`: bytes of the log that are of earlier starts.
    """
    own = " ".join(str(error).split())
    if own and not any(text in own for text in _UNHELPFUL):
        return f"{type(error).__name__}: {own[:500]}"
    return death(log, since, map(int, _CODES.findall(own))) or own or type(error).__name__


def death(log: Path, since: int, codes: Iterable[int | None]) -> str | None:
    """What an engine died of: the last error in its log that says so, else its processes' exit codes; None: neither."""
    lines = log.read_bytes()[since:].decode(errors="replace").split("\n") if log.is_file() else []
    told = _last_error(lines) or next(filter(None, (_ended_by(code, lines) for code in codes)), None)
    free = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else _ENOUGH
    return f"{told} ({_SHARED} has {free >> 20} MiB left)" if told and free < _ENOUGH else told


def _last_error(lines: Sequence[str]) -> str | None:
    for line in reversed(lines):
        found = _REASON.search(line)
        if found and not any(text in line for text in _UNHELPFUL):
            return f"{found[1]}: {found[2][:500]}"
        if native := _NATIVE.search(line):
            return native[0].strip()[:500]
    return None


def _ended_by(code: int | None, lines: Sequence[str]) -> str | None:
    """What a process's exit code says, where it did not end by itself. An abort's reason is the last thing said."""
    if code is None or code >= 0:
        return None
    name, last = signal.Signals(-code).name, next((line for line in reversed(lines) if line.strip()), "")
    said = f", which last said: {last.strip()[:300]}" if name == "SIGABRT" and last else ""
    return f"its process was ended by {name}{_HINTS.get(name, '')}{said}"
