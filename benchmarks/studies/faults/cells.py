"""One cell of the matrix: a session in a process, a fault in it, and what is left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

import strikes

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 240
"""A session that takes longer hangs."""
_MARK = "FAULTS_CELL"
"""Variable by which what a session started is known as its own, whoever its parent is by now."""
_SETTLE_S = 5
_OPTIONS = (
    *("--seed=0", "--prompt-lengths=64", "--concurrency=1,2", "--requests=2", "--repeats=1"),
    *("--output-tokens=4", "--warmup-requests=1", "--serving=disaggregated", "-p", "strikes"),
)
_NEEDS_DISK = ("disk full", "disk gone", "/dev/shm full")
_ON_DISK = """
mkdir -p outputs && mount -t tmpfs -o size=64M tmpfs outputs || exit 99
{shm}
"$@"
code=$?
[ "$(grep -c " $PWD/outputs " /proc/mounts)" -gt 1 ] && umount -l outputs
rm -f outputs/fill
cp -r outputs kept
exit $code
"""
_SHM = "mount -t tmpfs -o size=200M tmpfs /dev/shm"


@dataclass(frozen=True, slots=True)
class Cell:
    """What a session left. `code` None: it hung, and was killed."""

    fault: str
    phase: str
    code: int | None
    status: str
    finished: int
    kept: int
    report: bool
    orphans: int
    seconds: float
    traceback: bool
    struck: bool

    @property
    def holds(self) -> bool:
        """The bar: it ended, left no process, lost nothing that was finished, and told it in lines."""
        ended = self.struck and self.code is not None and not self.traceback
        return ended and not self.orphans and self.kept >= self.finished

    @property
    def shown(self) -> str:
        code = "**hangs**" if self.code is None else str(self.code)
        parts = [f"{code} {self.status}", f"{self.kept} of {self.finished}", "report" if self.report else "no report"]
        parts += [f"**{self.orphans} left running**"] if self.orphans else []
        parts += ["**traceback**"] if self.traceback else []
        parts += [] if self.struck else ["**not struck**"]
        return ", ".join(parts)


def run(fault: str, phase: str, *, real: bool, scratch: Path) -> Cell:
    """Run the session of one cell in a folder of its own below `scratch`."""
    folder = scratch / f"{'real' if real else 'simulated'}-{fault}-{phase}".replace(" ", "-").replace("/", "")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks" / "e0", folder / "benchmarks" / "e0")
    (folder / "pytest.ini").write_text("[pytest]\ncontext_research_short_options = true\n", encoding="utf-8")
    mark = uuid.uuid4().hex
    environment = os.environ | {
        strikes.FAULT: fault,
        strikes.PHASE: phase,
        strikes.FOLDER: str(folder),
        _MARK: mark,
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        "CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND": "1",
    }
    environment |= {"FAULTS_REAL": "1"} if real else {}
    command = [sys.executable, "-m", "pytest", "benchmarks/e0", *_OPTIONS]
    command += ["--device=cpu", "--share-devices=yes"] if real else ["--device-profile=cpu-2core"]
    if fault in _NEEDS_DISK:
        script = _ON_DISK.format(shm=_SHM if fault == "/dev/shm full" else "")
        command = ["unshare", "-rm", "sh", "-c", script, "sh", *command]
    began = time.monotonic()
    with (folder / "said").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_interruptible,
        )
        code = _wait(process)
    seconds = time.monotonic() - began
    if fault in _NEEDS_DISK:
        shutil.rmtree(folder / "outputs", ignore_errors=True)
        if (folder / "kept").exists():
            (folder / "kept").rename(folder / "outputs")
    return _cell(fault, phase, folder, code, seconds, _orphans(mark, process.pid))


def _interruptible() -> None:
    """What a shell runs in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        return None
    return code if code >= 0 else 128 - code  # as a shell has it


def _orphans(mark: str, group: int) -> int:
    """Processes of the session that are there a while after it; they are killed."""
    end = time.monotonic() + _SETTLE_S
    while (found := _started(mark, group)) and time.monotonic() < end:
        time.sleep(0.1)
    for process in found:
        process.kill()
    return len(found)


def _started(mark: str, group: int) -> list[psutil.Process]:
    """By its group, which one may leave; or by its environment, which a process that has given itself a title lacks."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            ours = os.getpgid(process.pid) == group or process.environ().get(_MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _cell(fault: str, phase: str, folder: Path, code: int | None, seconds: float, orphans: int) -> Cell:
    from context_research.records import running
    from context_research.records.files import RunFiles

    status, kept, report = "nothing written", 0, False
    if runs := sorted((folder / "outputs" / "runs").glob("*/run_metadata.json")):
        files = RunFiles(folder / "outputs", runs[0].parent.name)
        found, end = running.read(files), time.monotonic() + _SETTLE_S
        while found.status == "running" and found.reason is None and time.monotonic() < end:
            time.sleep(0.1)  # a killed process has its files until its last thread has ended
            found = running.read(files)
        status = "killed" if found.reason == running.KILLED else found.status
        kept = len(json.loads(files.summary("e0").read_text(encoding="utf-8"))["cases"])
        report = files.report.is_file()
    finished = folder / "finished"
    said = (folder / "said").read_text(encoding="utf-8", errors="replace")
    return Cell(
        fault=fault,
        phase=phase,
        code=code,
        status=status,
        finished=len(finished.read_text(encoding="utf-8").splitlines()) if finished.exists() else 0,
        kept=kept,
        report=report,
        orphans=orphans,
        seconds=round(seconds, 1),
        traceback="Traceback (most recent" in said or "INTERNALERROR" in said,
        struck=(folder / "struck").exists(),
    )
