"""E0's reference on one or two GPUs: A/B of 6 pairs, GPU tests, cost of measuring. Resumable. docs/gpu-reference.md"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Literal, TypedDict, Unpack
from xml.etree import ElementTree

import click

from context_research.cli.main import CALL_AGAIN
from context_research.errors import UsageProblem
from context_research.records import store
from context_research.records.ab import AbRecord

ROOT = Path(__file__).resolve().parents[3]
ALL_THERE, FAILED, WRONG_INPUT = 0, 1, 2
"""Exit statuses, beside CALL_AGAIN."""
CASES = {
    "whole": "--weights=seeded --output-tokens=128",
    "1": "--weights=seeded --prompt-lengths=1024,4096,16384,32768 --concurrency=1,8 --output-tokens=64 --requests=9 "
    "-k 'p1024-c8 or p4096-c8 or p16384-c8 or p32768-c1'",
    "2": "--weights=seeded --prompt-lengths=1024,8192,32768 --concurrency=1,4,16 --output-tokens=64 --requests=9 "
    "--set=engine.block_size=512 --set=engine.max_num_batched_tokens=2048 --set=engine.max_num_seqs=32",
}
"""Of e0.yaml every one, which is made for one GPU, or a selection for one or two.

Nine requests × 6 sessions are over the 51 that a p90 takes. 32 sequences are more than are in flight, and fewer CUDA
graphs to capture. Why these block and chunk sizes: docs/results/h200-2x-e0.md."""
ARMS = {"1": ("aggregated", "disaggregated"), "2": ("aggregated-2x", "disaggregated-1p1d")}
BARE = "--only=bare --pairs=60 --prompt-tokens=512 --output-tokens=128 --concurrency=16 --max-others=0.5"
NEEDS = {"ab": 90.0, "tests": 200.0, "overhead": 150.0}
"""The stages, and the seconds that one should have unless it is a call's first: guesses, on the long side."""
ENDING = 25.0
"""Seconds kept for ending a stage in order, and for packing."""
ARCHIVE, PART = "reference.tar.xz", 15 << 20
"""What is packed, in files of at most so many bytes."""

Result = Literal["done", "failed", "cut"]


class Asked(TypedDict):
    """What must be the same in every call for one folder."""

    gpus: str
    whole: bool
    pairs: int
    device_groups: str | None
    options: Sequence[str]


class Stage(TypedDict):
    """How a stage's last call ended, and how long it took."""

    result: Result
    seconds: float


class Kept(TypedDict):
    """reference.json."""

    asked: Asked
    stages: dict[str, Stage]


class Call:
    """One call's time, and the folder that it works in."""

    def __init__(self, out: Path, asked: Asked, budget: float) -> None:
        self.out, self.asked, self._deadline = out, asked, time.monotonic() + budget - ENDING

    @property
    def left(self) -> float:
        """Seconds to work in."""
        return self._deadline - time.monotonic()

    def ab(self) -> Result:
        cli, outputs = "-m context_research.cli", f"--outputs={self.out}"
        for record in (store.read(path, AbRecord) for path in self.out.glob("ab/*/ab.json")):
            if record.status == "completed":  # cut while it judged: `ab` would begin another
                return self._python("ab", cli, "verdict", record.ab_id, outputs)
        asked, (baseline, candidate) = self.asked, ARMS[self.asked["gpus"]]
        own = [f"--baseline={baseline}", f"--candidate={candidate}", f"--pairs={asked['pairs']}", "--seed=0", outputs]
        own += [f"--device-groups={asked['device_groups']}"] if asked["device_groups"] else []
        own += [f"--budget={max(0.0, self.left - ENDING):.0f}", "--"]
        cases = shlex.split(CASES["whole" if asked["whole"] else asked["gpus"]])
        rows = f"--benchmark-storage=file://{self.out}/rows"
        return self._python("ab", cli, "ab", "e0", *own, *cases, rows, *asked["options"])

    def tests(self) -> Result:
        junit = self.out / "gpu-tests.xml"
        result = self._python("tests", "-m pytest tests/gpu -q -m gpu -p no:cacheprovider", f"--junitxml={junit}")
        counts = ElementTree.parse(junit).getroot()[0].attrib if result == "done" else {"tests": "", "skipped": None}
        if counts["skipped"] == counts["tests"]:
            print("tests: every one was skipped: this machine has no GPU for them", flush=True)
            return "failed"
        return result

    def overhead(self) -> Result:
        seconds = f"--seconds={max(0.0, self.left - ENDING):.0f}"  # as many pairs as there is time for
        script = f"benchmarks/studies/overhead/overhead.py {BARE}"
        # 1 is a bar that is missed or undecided: a result.
        return self._python("overhead", script, f"--out={self.out}/overhead-bare.json", seconds, fine=(0, 1))

    def _python(self, name: str, command: str, *arguments: str, fine: Sequence[int] = (0,)) -> Result:
        """Run it, output to <name>.log, and show the output's end; `cut` where time is up.

        What a command started (sessions, engines) ends with it, and in order if it is asked to end.
        """
        with (self.out / f"{name}.log").open("a+", encoding="utf-8", errors="replace") as log:
            began = log.tell()
            process = subprocess.Popen([sys.executable, *command.split(), *arguments], cwd=ROOT, stdout=log, stderr=log)
            try:
                code = process.wait(max(0.0, self.left))
            except subprocess.TimeoutExpired:
                code = CALL_AGAIN
            finally:
                _end(process)
            log.seek(began)
            print(log.read()[-6000:], end="", flush=True)
        return "cut" if code == CALL_AGAIN else "done" if code in fine else "failed"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(call: Call, stages: Sequence[str]) -> int:
    """Every stage that is not done, in order of worth, while there is time; the exit status.

    reference.json keeps what was asked, and how each stage ended. Raises UsageProblem: other things were asked.
    """
    path = call.out / "reference.json"
    kept: Kept = {"asked": call.asked, "stages": {}}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
    if kept.get("asked") != call.asked:
        raise UsageProblem(f"{call.out} holds a reference with other GPUs, cases, pairs or options: give another")
    results: dict[str, Result] = dict.fromkeys(stages, "cut")
    results |= {name: stage["result"] for name, stage in kept["stages"].items() if name in results}
    pending = [name for name in stages if results[name] != "done"]
    for name in pending:
        if name != pending[0] and call.left < NEEDS[name]:
            continue
        print(f"== {name}, {call.left:.0f} s left", flush=True)
        began = time.monotonic()
        results[name] = {"ab": call.ab, "tests": call.tests, "overhead": call.overhead}[name]()
        kept["stages"][name] = {"result": results[name], "seconds": round(time.monotonic() - began, 1)}
        store.replace(path, json.dumps(kept, indent=1) + "\n")
    for name, result in results.items():
        print(f"stage {name}: {'not done yet' if result == 'cut' else result}", flush=True)
    return FAILED if "failed" in results.values() else CALL_AGAIN if "cut" in results.values() else ALL_THERE


def pack(out: Path, where: Path) -> list[Path]:
    """Everything but rows and SVGs, in ARCHIVE or parts of it: `cat` of the parts is the archive."""

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = PurePath(member.name)
        stays = path.parts[1:2] in (("rows",), ("pack",)) or path.suffix in (".svg", ".lock")
        return None if stays or path.name.startswith(ARCHIVE) else member

    where.mkdir(parents=True, exist_ok=True)
    for old in where.glob(f"{ARCHIVE}*"):
        old.unlink()
    whole, parts = where / ARCHIVE, list[Path]()
    with tarfile.open(whole, "w:xz", preset=2) as archive:
        archive.add(out, "reference", filter=kept)
    if whole.stat().st_size <= PART:
        return [whole]
    with whole.open("rb") as stream:
        while data := stream.read(PART):
            parts.append(where / f"{ARCHIVE}.{len(parts) + 1}")
            parts[-1].write_bytes(data)
    whole.unlink()
    return parts


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT_DIR")
@click.option("--budget", type=click.FloatRange(ENDING, min_open=True), default=480, metavar="SECONDS")
@click.option("--gpus", type=click.Choice(["1", "2"]), default="1", help="2: two replicas against a split pair.")
@click.option("--device-groups", metavar="'0,1;2,3'", help="Sessions of the A/B side by side, each on GPUs of its own.")
@click.option("--pairs", type=click.IntRange(1), default=6, help="Of the A/B.")
@click.option("--whole", is_flag=True, help="Every case of e0.yaml instead of a selection.")
@click.option("--only", default=",".join(NEEDS), help="Stages.")
@click.option("--pack", "where", type=click.Path(path_type=Path), metavar="DIR", help="Archive's folder: OUT_DIR/pack.")
@click.option("--as-is", is_flag=True, help="Use the active environment, install nothing (no network).")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST OPTIONS OF THE A/B]")
def main(out: Path, budget: float, only: str, where: Path | None, as_is: bool, **given: Unpack[Asked]) -> None:
    """Run what E0 on a GPU needs, for `--budget` seconds at most, and pack what there is. The same command goes on.

    Exit status: 0 all is there, 1 something failed, 2 wrong input, 75 call again.
    """
    del as_is  # the shell script's
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of _end: nothing is left behind
    out, stages = out.absolute(), only.split(",")
    try:
        if unknown := [name for name in stages if name not in NEEDS]:
            raise UsageProblem(f"--only {unknown[0]!r}: the stages are {', '.join(NEEDS)}")
        if given["whole"] and given["gpus"] != "1":
            raise UsageProblem("--whole: e0.yaml is made for one GPU, leave out --gpus")
        store.check_writable(out)
        asked: Asked = json.loads(json.dumps(given))  # as it comes back from reference.json
        status = run(Call(out, asked, budget), stages)
    except UsageProblem as problem:
        click.echo(f"ERROR: {problem}", err=True)
        sys.exit(WRONG_INPUT)
    share = ["benchmarks/studies/handoff/share.py", str(out), f"--json={out}/handoff-share.json"]
    subprocess.run([sys.executable, *share], cwd=ROOT, check=False)
    for packed in pack(out, (where or out / "pack").absolute()):
        print(f"packed {packed} ({packed.stat().st_size / (1 << 20):.1f} MiB)")
    print({ALL_THERE: "all is there", FAILED: "something failed, see above", CALL_AGAIN: "call again to go on"}[status])
    sys.exit(status)


if __name__ == "__main__":
    main()
