"""How fast the simulated backend is: steps per second of a processor's time, with strides and without, its memory.

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
from collections.abc import Callable, Mapping
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
from context_research.workload.arrivals import BUILT_IN
from context_research.workload.case import cases


@dataclass(frozen=True, slots=True)
class Load:
    """An experiment, and the settings that make its only case."""

    experiment: str
    settings: Mapping[str, object]


def _closed(prompt: int, concurrency: int, output: int, requests: int) -> Load:
    """Tokens of a prompt and its answer, how many requests, and how many of them at a time."""
    settings = {
        "workload.prompt_lengths": [prompt],
        "workload.concurrency": [concurrency],
        "workload.output_tokens": output,
        "workload.requests": requests,
        # KV of waiting prompts on the prefill engine may fill its pool: that is part of what is simulated.
        "workload.request_timeout_s": 1e6,
    }
    return Load("e0", settings)


LOADS = {
    "32 × 1k/1,024": _closed(1024, 32, 1024, 256),
    "8 × 32k/256": _closed(32768, 8, 256, 64),
    "32 × 1k/64": _closed(1024, 32, 64, 2_000),
    "8 × 8k/16": _closed(8192, 8, 16, 400),
    "E2": Load("e2", {}),
}
"""In flight × tokens of a prompt/answer."""


@click.command()
@click.option("--load", type=click.Choice([*LOADS]), help="one load, in this process; else all, in their own")
@click.option("--serving", default="aggregated", show_default=True, help="two GPUs where it isn't aggregated")
@click.option("--strides/--no-strides", default=True, show_default=True, help="decode steps many at once")
@click.option("--rounds", default=5, show_default=True, help="of all loads, with strides and without in turn")
@click.option("--profile", "profiled", is_flag=True, help="print the functions that take the time")
@click.option("--device-profile", default="h200", show_default=True)
def main(load: str | None, serving: str, strides: bool, rounds: int, profiled: bool, device_profile: str) -> None:
    """Simulate loads of Qwen3-8B, and print a JSON line for each."""
    if load is not None:
        print(json.dumps(_measured(LOADS[load], serving, strides, profiled, device_profile)))
        return
    for name in LOADS:
        for mode in ("aggregated", "disaggregated"):
            found: dict[str, list[dict[str, float]]] = {"strides": [], "no-strides": []}
            for how in [*found] * rounds:
                asked = ("--load", name, "--serving", mode, f"--{how}", "--device-profile", device_profile)
                told = subprocess.run([sys.executable, __file__, *asked], check=True, stdout=subprocess.PIPE, text=True)
                found[how].append(json.loads(told.stdout.splitlines()[-1]))
            fast, slow = (min(some, key=lambda one: one["cpu_s"]) for some in found.values())
            ratio = round(fast["steps_per_s"] / slow["steps_per_s"], 1)
            print(json.dumps({"load": name, "serving": mode, "ratio": ratio, **fast, "without": slow}))


def _measured(load: Load, serving: str, strides: bool, profiled: bool, device_profile: str) -> dict[str, float]:
    asked = {
        "backend": "simulated",
        "device_profile": device_profile,
        "serving": serving,
        "devices": [0] if serving == "aggregated" else [0, 1],
        "seed": 0,
        "workload.repeats": 1,
    }
    chosen = resolve(load.experiment, [Layer("speed", asked | dict(load.settings))]).settings
    model = hub.resolve(chosen.model, config_only=True)
    with tempfile.TemporaryDirectory() as logs:
        topology = build.with_logs(backend_of(chosen), model, Path(logs))
        topology.start()
        for engine in topology.engines:
            engine.strides = strides  # type: ignore[attr-defined] # a simulated engine's own
        profiler, began, used = cProfile.Profile(), time.perf_counter(), time.process_time()
        if profiled:
            _on_the_loop(topology, profiler.enable)
        result = measure(cases(chosen)[0], model, topology, arrive=BUILT_IN[chosen.workload.arrivals])
        wall, cpu = time.perf_counter() - began, time.process_time() - used
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
        "cpu_s": round(cpu, 2),
        "simulated_s_per_s": round(simulated / cpu, 1),
        "steps": steps,
        "steps_per_s": round(steps / cpu),
        "peak_gib": round(int(peak[1]) / (1 << 20), 2) if peak else -1.0,
    }


def _on_the_loop(topology: Topology, call: Callable[[], object]) -> None:
    """cProfile sees one thread: the one that the event loop runs on."""

    async def now() -> None:
        call()

    topology.backend.loop.run(now())


if __name__ == "__main__":
    main()
