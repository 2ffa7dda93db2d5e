"""What each knob does for the KV handoff: one E0 session a variant, one request at a time.

    python benchmarks/studies/handoff/sweep.py --out OUT                                    # every variant
    python benchmarks/studies/handoff/sweep.py --out OUT --only 'block 128,block 256' --prompt-tokens 4096

One session each: an illustration of sizes, not a verdict. A variant that fails is shown with its reason, and the others
go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

VARIANTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "block 16": ({}, ["--set=engine.block_size=16"]),
    "block 64": ({}, ["--set=engine.block_size=64"]),
    "block 128": ({}, ["--set=engine.block_size=128"]),
    "block 256": ({}, ["--set=engine.block_size=256"]),
    "block 512": ({}, ["--set=engine.block_size=512"]),
    "block 256, 4 NIXL threads": (
        {},
        ["--set=engine.block_size=256", "--set=serving.handoff.extra_config.num_threads=4"],
    ),
    "block 256, no progress thread": (
        {},
        ["--set=engine.block_size=256", "--set=serving.handoff.progress_thread='off'"],
    ),
    "block 256, layout NHD": ({"VLLM_KV_CACHE_LAYOUT": "NHD"}, ["--set=engine.block_size=256"]),
}
"""Environment and options of each (off is false in YAML, hence its quotes); on top of configs/experiments/e0.yaml."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant's case: medians, in seconds and bytes per second, what moved the KV, and each engine's start."""

    variant: str
    waterfall_p50_s: dict[str, float]
    ttft_p50_s: float
    bandwidth_p50: float
    transport: str
    start_s: dict[str, float]

    @property
    def row(self) -> tuple[str | float, ...]:
        parts = [self.waterfall_p50_s[part] * 1e3 for part in ("handoff", "decode_queue", "first_decode_step")]
        share = f"{self.waterfall_p50_s['handoff'] / self.ttft_p50_s:.1%}"
        return self.variant, *parts, self.ttft_p50_s * 1e3, share, self.bandwidth_p50 / 1e9


@dataclass(frozen=True, slots=True)
class Failed:
    """A variant without figures, and why."""

    variant: str
    failed: str

    @property
    def row(self) -> tuple[str | float, ...]:
        return self.variant, self.failed[:60]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and sweep.json")
    parser.add_argument("--only", help="names of variants, separated by commas")
    parser.add_argument("--prompt-tokens", type=int, default=32768)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("options", nargs="*", help="further pytest options, after --")
    given = parser.parse_args()
    names = [name.strip() for name in given.only.split(",")] if given.only else list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        parser.error(f"no variant {unknown[0]!r}; there are: {', '.join(VARIANTS)}")
    outcomes: list[Measured | Failed] = []
    for name in names:
        outcomes.append(measure(name, given))
        print(json.dumps(asdict(outcomes[-1])), flush=True)
        (given.out / "sweep.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=1) + "\n")
    header = (
        "variant",
        "handoff p50 (ms)",
        "decode queue",
        "first decode step",
        "ttft p50 (ms)",
        "handoff share",
        "GB/s",
    )
    print(tabulate([each.row for each in outcomes], header, floatfmt=".1f"))


def measure(name: str, given: argparse.Namespace) -> Measured | Failed:
    """One session; the case's figures, or why there are none."""
    environment, options = VARIANTS[name]
    run_id = name.replace(" ", "-").replace(",", "")
    own = [
        *("--serving=disaggregated", "--seed=0"),
        *(f"--prompt-lengths={given.prompt_tokens}", "--concurrency=1", f"--requests={given.requests}", "--repeats=1"),
        *(f"--outputs={given.out}", f"--run-id={run_id}", f"--benchmark-storage=file://{given.out}/rows"),
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / f"{run_id}.log").open("w") as log:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "benchmarks/e0", *own, *options, *given.options],
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    folder = given.out / "runs" / run_id
    if not (folder / "e0_summary.json").is_file():
        return Failed(name, f"exit status {ended.returncode} before it began")
    summary, metadata = (json.loads((folder / f"{file}.json").read_text()) for file in ("e0_summary", "run_metadata"))
    if metadata["status"] != "completed":
        return Failed(name, f"{metadata['status']}: {metadata['reason']}")
    (case,) = summary["cases"]
    return Measured(
        variant=name,
        waterfall_p50_s={part: figures["p50"] for part, figures in case["waterfall"].items()},
        ttft_p50_s=case["metrics"]["ttft"]["p50"],
        bandwidth_p50=case["metrics"]["handoff_bandwidth"]["p50"],
        transport=next(check["evidence"] for check in case["validity"] if check["check"] == "transport"),
        start_s={engine["name"]: engine["start_s"] for engine in metadata["engines"]},
    )


if __name__ == "__main__":
    main()
