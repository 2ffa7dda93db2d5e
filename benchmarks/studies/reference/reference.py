"""E0's reference on one or two GPUs: A/B of 6 pairs, GPU tests, cost of measuring. Resumable. docs/gpu-reference.md

Each call works for `--budget` seconds at most, says what is left, and packs what there is. The same command goes on.
Exit status: 0 all is there, 1 something failed, 2 wrong input, 75 call again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil

from context_research.cli.main import CALL_AGAIN
from context_research.errors import UsageProblem
from context_research.records import store

ROOT = Path(__file__).resolve().parents[3]
ALL_THERE, FAILED, WRONG_INPUT = 0, 1, 2
WHOLE_E0 = ("--weights=seeded",)
"""Every case of configs/experiments/e0.yaml as it stands, which is made for one GPU."""
E0 = {
    1: (
        "--weights=seeded",
        "--prompt-lengths=1024,4096,16384,32768",
        "--concurrency=1,8",
        "--output-tokens=64",
        "--requests=9",
        "-k",
        "p1024-c8 or p4096-c8 or p16384-c8 or p32768-c1",
    ),
    2: (
        "--weights=seeded",
        "--prompt-lengths=1024,8192,32768",
        "--concurrency=1,4,16",
        "--output-tokens=64",
        "--requests=9",
        "--set=engine.block_size=512",
        "--set=engine.max_num_batched_tokens=2048",
        "--set=engine.max_num_seqs=32",
    ),
}
"""By GPUs. Nine requests × 6 sessions are over the 51 that a p90 takes. 32 sequences are more than are in flight, and
fewer CUDA graphs to capture. Why these block and chunk sizes: docs/results/h200-2x-e0.md."""
ARMS = {1: ("aggregated", "disaggregated"), 2: ("aggregated-2x", "disaggregated-1p1d")}
BARE = ("--only=bare", "--pairs=60", "--prompt-tokens=512", "--output-tokens=128", "--concurrency=16")
NEEDS = {"ab": 90.0, "tests": 200.0, "overhead": 150.0}
"""Seconds that a stage should have, unless it is a call's first: guesses, on the long side."""
ENDING = 25.0
"""Seconds kept for ending a session in order, and for packing."""
PART = 15 << 20
"""Bytes of one packed file."""


class Reference:
    """The folder of one reference, and the call's time. `state` is what earlier calls finished."""

    def __init__(self, given: argparse.Namespace, options: Sequence[str]) -> None:
        self.out, self.pairs, self.stages, self.gpus = given.out.absolute(), given.pairs, given.only, given.gpus
        self.options, self.groups, self.whole = list(options), given.device_groups, given.whole
        self._deadline = time.monotonic() + given.budget
        self._state_file = self.out / "reference.json"
        asked = {
            "pairs": self.pairs,
            "options": self.options,
            "gpus": self.gpus,
            "device_groups": self.groups,
            "whole": self.whole,
        }
        self.state: dict[str, Any] = {**asked, "stages": {}, "calls": []}
        if self._state_file.is_file():
            self.state = {"whole": False} | json.loads(self._state_file.read_text(encoding="utf-8"))
            if {key: self.state.get(key) for key in asked} != asked:
                raise UsageProblem(
                    f"{self.out} holds a reference with other GPUs, cases, pairs or options: give another folder"
                )

    @property
    def left(self) -> float:
        return self._deadline - time.monotonic()

    def run(self) -> int:
        """Every stage that is not done, in order of worth, while there is time; the exit status."""
        began, pending = time.monotonic(), [name for name in self.stages if not self._done(name)]
        first = True
        for name in pending:
            if not first and self.left < NEEDS[name] + ENDING:
                print(f"{name}: not begun, {self.left:.0f} s are left of this call", flush=True)
                continue
            first = False
            print(f"== {name}, {self.left:.0f} s left", flush=True)
            started = time.monotonic()
            result = {"ab": self._ab, "tests": self._tests, "overhead": self._overhead}[name]()
            self.state["stages"][name] = {"result": result, "seconds": round(time.monotonic() - started, 1)}
            self._write()
        self.state["calls"].append(round(time.monotonic() - began, 1))
        self._write()
        results = [self.state["stages"].get(name, {}).get("result", "cut") for name in self.stages]
        return FAILED if "failed" in results else CALL_AGAIN if "cut" in results else ALL_THERE

    def _done(self, name: str) -> bool:
        return bool(self.state["stages"].get(name, {}).get("result") == "done")

    def _write(self) -> None:
        store.replace(self._state_file, json.dumps(self.state, indent=1) + "\n")

    def _ab(self) -> str:
        record = self.record()
        if record and record["status"] == "completed":  # cut while it judged: `ab` would begin another
            again = ["verdict", record["ab_id"], f"--outputs={self.out}"]
            return self._command("verdict", ["-m", "context_research.cli.main", *again])
        baseline, candidate = ARMS[self.gpus]
        own = ["ab", "e0", f"--baseline={baseline}", f"--candidate={candidate}"]
        budget = max(0.0, self.left - 2 * ENDING)
        own += [f"--pairs={self.pairs}", "--seed=0", f"--outputs={self.out}", f"--budget={budget:.0f}"]
        own += [f"--device-groups={self.groups}"] if self.groups else []
        rows = f"--benchmark-storage=file://{self.out}/rows"
        cases = WHOLE_E0 if self.whole else E0[self.gpus]
        return self._command("ab", ["-m", "context_research.cli.main", *own, "--", *cases, rows, *self.options])

    def record(self) -> dict[str, Any] | None:
        """The A/B's ab.json, or None before there is one."""
        found = sorted(self.out.glob("ab/*/ab.json"))
        return store.read(found[-1], "ab") if found else None

    def _tests(self) -> str:
        junit = f"--junitxml={self.out}/gpu-tests.xml"
        options = ["tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider", junit]
        result = self._command("tests", ["-m", "pytest", *options])
        counts = _counts(self.out / "gpu-tests.xml") if result == "done" else {}
        if counts and counts["skipped"] == counts["tests"]:
            print("tests: every one was skipped: this machine has no GPU for them", flush=True)
            return "failed"
        return result

    def _overhead(self) -> str:
        script = "benchmarks/studies/overhead/overhead.py"
        quiet = ["--max-others=0.5", f"--out={self.out}/overhead-bare.json"]
        seconds = f"--seconds={self.left - 2 * ENDING:.0f}"  # as many pairs as the call has time for
        # 1 is a bar that is missed or undecided: a result.
        return self._command("overhead", [script, *BARE, *quiet, seconds], fine=(0, 1))

    def _command(self, name: str, arguments: list[str], fine: Sequence[int] = (0,)) -> str:
        """Run Python with these arguments, output to <name>.log: done, failed, or cut where time is up."""
        log = self.out / f"{name}.log"
        with log.open("a", encoding="utf-8") as output:
            shown = output.tell() if output.seekable() else 0
            process = psutil.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            family: set[psutil.Process] = set()
            cut = False
            try:
                while process.poll() is None:
                    family |= _descendants(process)
                    if self.left < ENDING:
                        cut = True
                        break
                    time.sleep(0.3)
            finally:
                _end(process, family)
        with log.open("rb") as written:
            written.seek(shown)
            print(written.read()[-6000:].decode(errors="replace"), end="", flush=True)
        if cut or process.returncode == CALL_AGAIN:
            print(f"{name}: {'cut to end' if cut else 'ended'} in time; the same command goes on", flush=True)
            return "cut"
        return "done" if process.returncode in fine else "failed"


def _descendants(process: psutil.Process) -> set[psutil.Process]:
    try:
        return set(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def _end(process: psutil.Popen, family: set[psutil.Process]) -> None:
    """Ask the command to end, wait for it, and see that nothing it started is left; by process, never by name."""
    if process.poll() is None:
        family |= _descendants(process)
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs([process], timeout=30)
    _, alive = psutil.wait_procs([process, *family], timeout=5)
    for left in alive:
        print(f"killed what was left: process {left.pid}", flush=True)
        try:
            left.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def table(reference: Reference) -> str:
    """What there is so far."""
    lines = []
    record = reference.record()
    if record:
        done = sum(session["status"] == "completed" for session in record["sessions"])
        lines.append(f"A/B {record['ab_id']}: {record['status']}, {done} of {len(record['sessions'])} sessions")
        if record["reason"] and record["status"] == "stopped":
            lines.append(f"  it stopped: {record['reason']}")
        verdicts = reference.out / "ab" / record["ab_id"] / "verdict.json"
        if verdicts.is_file():
            for each in store.read(verdicts, "verdict")["primary"]:
                interval = f"{each['low']:.3f} to {each['high']:.3f}" if each["low"] is not None else "no interval"
                figure = f"{each['metric']}.{each['statistic']} {each['case']}"
                lines.append(f"  {figure:24} {each['outcome']:10} {each['ratio']:.3f} ({interval})")
        share = [sys.executable, "benchmarks/studies/handoff/share.py", str(reference.out)]
        share.append(f"--json={reference.out}/handoff-share.json")
        told = subprocess.run(share, cwd=ROOT, capture_output=True, text=True, check=False)
        lines.append(told.stdout.rstrip() or f"handoff ÷ ttft: {told.stderr.strip()}")
    junit = reference.out / "gpu-tests.xml"
    if junit.is_file():
        lines.append("GPU tests: " + ", ".join(f"{count} {name}" for name, count in _counts(junit).items()))
    bare = reference.out / "overhead-bare.json"
    if bare.is_file():
        for each in json.loads(bare.read_text(encoding="utf-8"))["comparisons"]:
            low, high = each["interval_95"]
            told = f"{each['median']:.4f} ({low:.4f} to {high:.4f}), {each['bar']}: {each['verdict']}"
            lines.append(f"overhead: {each['name']:14} {told}")
    for name in reference.stages:
        stage = reference.state["stages"].get(name, {"result": "not begun", "seconds": 0})
        lines.append(f"stage {name}: {stage['result']}, {stage['seconds']:.0f} s in its last call")
    return "\n".join(lines)


def _counts(junit: Path) -> dict[str, int]:
    suite = ElementTree.parse(junit).getroot()[0].attrib
    return {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}


def pack(out: Path, where: Path) -> list[Path]:
    """Everything but the rows as reference.tar.xz in parts of at most PART bytes; `cat` of the parts is the archive."""
    where.mkdir(parents=True, exist_ok=True)
    for old in where.glob("reference.tar.xz*"):
        old.unlink()
    whole = where / "reference.tar.xz"
    kept = [path for path in sorted(out.rglob("*")) if path.is_file() and _comes_back(path.relative_to(out))]
    with lzma.open(whole, "wb", preset=2) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for path in kept:
            if path != whole:
                archive.add(path, Path("reference") / path.relative_to(out), recursive=False)
    if whole.stat().st_size <= PART:
        return [whole]
    parts = []
    with whole.open("rb") as stream:
        while data := stream.read(PART):
            parts.append(where / f"{whole.name}.{len(parts) + 1}")
            parts[-1].write_bytes(data)
    whole.unlink()
    return parts


def _comes_back(path: Path) -> bool:
    return path.parts[0] not in ("rows", "pack") and path.suffix not in (".svg", ".lock")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/run_gpu_reference.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder for everything; the same one to go on")
    parser.add_argument("--budget", type=float, default=480, metavar="SECONDS", help="of this call (default: 480)")
    parser.add_argument(
        "--gpus", type=int, choices=(1, 2), default=1, help="2: two replicas against one prefill and one decode engine"
    )
    parser.add_argument(
        "--device-groups", metavar="'0,1;2,3'", help="of the A/B: sessions side by side, each on GPUs of its own"
    )
    parser.add_argument("--pairs", type=int, default=6, help="of the A/B (default: 6)")
    parser.add_argument("--whole", action="store_true", help="every case of e0.yaml instead of a selection")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(NEEDS),
        help="stages (default: all)",
        metavar=",".join(NEEDS),
    )
    parser.add_argument("--pack", type=Path, metavar="DIR", help="where the archive goes (default: OUT_DIR/pack)")
    parser.add_argument("--as-is", action="store_true", help="use the active environment, install nothing (no network)")
    arguments, options = sys.argv[1:], list[str]()
    if "--" in arguments:
        arguments, options = arguments[: (at := arguments.index("--"))], arguments[at + 1 :]
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.only if name not in NEEDS]:
        parser.exit(WRONG_INPUT, f"ERROR: --only {unknown[0]!r}: the stages are {', '.join(NEEDS)}\n")
    if given.budget <= ENDING or given.pairs < 1:
        parser.exit(WRONG_INPUT, f"ERROR: --budget is over {ENDING:.0f} s, --pairs at least 1\n")
    if given.whole and given.gpus != 1:
        parser.exit(WRONG_INPUT, "ERROR: --whole: e0.yaml is made for one GPU, leave out --gpus\n")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of _end: nothing is left behind
    try:
        store.check_writable(given.out.absolute())
        reference = Reference(given, options)
        status = reference.run()
        print(table(reference))
        for packed in pack(reference.out, (given.pack or reference.out / "pack").absolute()):
            print(f"packed {packed} ({packed.stat().st_size / (1 << 20):.1f} MiB)")
    except UsageProblem as problem:
        parser.exit(WRONG_INPUT, f"ERROR: {problem}\n")
    told = {ALL_THERE: "all is there", FAILED: "something failed, see above", CALL_AGAIN: "call again to go on"}
    print(told[status])
    sys.exit(status)


if __name__ == "__main__":
    main()
