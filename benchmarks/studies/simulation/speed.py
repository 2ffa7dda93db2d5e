"""How fast the simulated backend is: simulated seconds per second of this machine, its memory, and what limits it.

CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND=1 python benchmarks/studies/simulation/speed.py
"""

from __future__ import annotations

import cProfile
import json
import pstats
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.measure.case import measure
from context_research.models import hub
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.sources import Layer
from context_research.workload.case import point


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens of a prompt and its answer, how many requests, and how many of them at a time."""

    prompt: int
    concurrency: int
    output: int
    requests: int


LOADS = {"32k × 8": Load(32768, 8, 256, 64), "10,000 × 1k": Load(1024, 32, 64, 10_000)}


@click.command()
@click.option(
    "--load", type=click.Choice([*LOADS]), help="one load, in this process; else all, in processes of their own"
)
@click.option("--serving", default="aggregated", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="print the functions that take the time")
@click.option("--device-profile", default="h200", show_default=True)
def main(load: str | None, serving: str, profiled: bool, device_profile: str) -> None:
    """Simulate loads of Qwen3-8B, and print a JSON line for each."""
    if load is None:
        for name in LOADS:
            for mode in ("aggregated", "disaggregated"):
                command = [
                    sys.executable,
                    __file__,
                    "--load",
                    name,
                    "--serving",
                    mode,
                    "--device-profile",
                    device_profile,
                ]
                subprocess.run(command, check=True)
        return
    print(json.dumps({"load": load, "serving": serving} | _measured(LOADS[load], serving, profiled, device_profile)))


def _measured(load: Load, serving: str, profiled: bool, device_profile: str) -> dict[str, float]:
    asked = {
        "backend": "simulated",
        "device_profile": device_profile,
        "serving": serving,
        "seed": 0,
        "workload.prompt_lengths": [load.prompt],
        "workload.concurrency": [load.concurrency],
        "workload.output_tokens": load.output,
        "workload.requests": load.requests,
        "workload.repeats": 1,
        # KV of waiting prompts on the prefill engine may fill its pool: that is part of what is simulated.
        "workload.request_timeout_s": 1e6,
    }
    chosen = resolve("e0", [Layer("speed", asked)]).settings
    model = hub.resolve(chosen.model, config_only=True)
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend_of(chosen), model, Path(logs))
        topology.start()
        profiler, began = cProfile.Profile(), time.perf_counter()
        if profiled:
            _on_the_loop(topology, profiler.enable)
        result = measure(point(chosen, load.prompt, load.concurrency), model, topology)
        wall = time.perf_counter() - began
        if profiled:
            _on_the_loop(topology, profiler.disable)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
        steps = sum(engine.counters.steps for engine in topology.engines)
        topology.close()
    if result.failure:
        raise click.ClickException(result.failure)
    simulated = max(t.finished or 0.0 for t in result.timelines) - result.origin
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {
        "requests": len(result.timelines),
        "simulated_s": round(simulated, 1),
        "wall_s": round(wall, 2),
        "simulated_s_per_s": round(simulated / wall, 1),
        "steps": steps,
        "us_per_step": round(wall / steps * 1e6, 1),
        "peak_gib": round(int(peak[1]) / (1 << 20), 2) if peak else -1.0,
    }


def _on_the_loop(topology: Topology, call: Callable[[], object]) -> None:
    """cProfile sees one thread: the one that the event loop runs on."""

    async def now() -> None:
        call()

    topology.backend.loop.run(now())


if __name__ == "__main__":
    main()
