"""What recording every step costs: throughput with it against without, and the two hooks alone. See README.md."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import click
import loops
import numpy as np
import overhead
import toggled
from quiet import TooBusy, in_pairs
from ratios import Bar, Comparison
from tabulate import tabulate

from context_research.engines import step_records
from context_research.engines.vllm.engine import VllmEngine
from context_research.engines.vllm.environment import changed
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure.case import measure
from context_research.models import hub, model
from context_research.serving import preflight
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings

THROUGHPUT = Bar(low=0.995)
HOOKED = (1, 16, 128)
"""Requests of a step for which the hooks are timed."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--pairs", type=click.IntRange(5), default=80, help="Pairs of short runs, per load.")
@click.option("--max-others", type=click.FloatRange(0, 1), default=0.05, help="As for overhead.py.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write JSON here.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512)
@click.option("--output-tokens", type=click.IntRange(2), default=32)
@click.option("--requests", type=click.IntRange(1), default=2, help="Requests of each slot in a run.")
@click.option("--concurrency", type=click.IntRange(1), multiple=True, default=(1, 4), help="The loads.")
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto")
@click.option("--devices", default=None, metavar="0,1", help="GPU ids or CPU cores, as the plugin's --devices.")
@click.option("--model-name", default=None, help="Instead of the experiment config's.")
@click.option("--weights", type=click.Choice(["hub", "seeded", "dummy"]), default="seeded")
def main(pairs: int, max_others: float, out: Path | None, **given: Any) -> None:
    """Ratios of throughput with recording to without, one engine, in pairs; microseconds of the hooks in a step.

    Exit code 0 if every bar holds, 1 if one is missed or undecided, 2 if there is no result.
    """
    try:
        settings = _toggled(overhead._settings(given))
        preflight.check_backend(settings)
        with TemporaryDirectory(prefix="recording-") as folder:
            comparisons, steps = _compare(settings, pairs, max_others, Path(folder) / "engine.log")
            hooks = _hooks(Path(folder) / "hooks.csv", steps)
    except (EngineFailure, UsageProblem, TooBusy) as problem:
        click.echo(f"ERROR: {problem}", err=True)
        sys.exit(overhead.NO_RESULT)
    environment = overhead._environment(settings, ())
    header = ("requests", "hooks of a step", "median decode step", "share")
    rows = [
        (
            row["requests"],
            f"{row['us']:.1f} µs",
            *((f"{row['step_ms']:.2f} ms", f"{row['share']:.3%}") if row["step_ms"] else "––"),
        )
        for row in hooks
    ]
    click.echo(overhead._markdown(comparisons, environment))
    click.echo("\n" + tabulate(rows, headers=header, tablefmt="github", disable_numparse=True))
    if out is not None:
        results = {"environment": environment, "comparisons": [one.as_json() for one in comparisons], "hooks": hooks}
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    held = all(comparison.verdict == "holds" for comparison in comparisons)
    sys.exit(overhead.BARS_HOLD if held else overhead.NOT_SHOWN)


def _toggled(settings: Settings) -> Settings:
    """The settings with a scheduler that records only while it is told to. Sync or async, as vLLM chooses it."""
    name = "ToggledScheduler" if settings.device == "cpu" else "ToggledAsyncScheduler"
    args = settings.engine.args | {"scheduler_cls": f"toggled.{name}"}
    return settings.model_copy(update={"engine": settings.engine.model_copy(update={"args": args})})


def _compare(settings: Settings, pairs: int, max_others: float, log: Path) -> tuple[list[Comparison], np.ndarray]:
    """Both sides at each load, on one running engine; and the engine's steps, with those of loads for the hooks."""
    model = hub.download(hub.resolve(settings.model))
    topology, engine = loops.build(settings, model, log)
    steps = step_records.path_of(log)
    try:
        topology.start()
        found = [
            comparison
            for concurrency in settings.workload.concurrency
            for comparison in _at(concurrency, settings, model, topology, engine, pairs, max_others)
        ]
        toggled.switch(steps).unlink(missing_ok=True)
        # Short prompts and long answers: all requests of a load decode together for a while.
        short = settings.workload.model_copy(update={"prompt_lengths": (16,), "output_tokens": 64})
        together = settings.model_copy(update={"workload": short})
        for level in HOOKED:
            _pass(level, together, model, topology, pair=pairs + 1, per_slot=1)
    finally:
        topology.close()
    return found, step_records.read(steps)


def _at(
    concurrency: int,
    settings: Settings,
    model: model.Model,
    topology: Topology,
    engine: VllmEngine,
    pairs: int,
    max_others: float,
) -> list[Comparison]:
    steps, per_slot = step_records.path_of(engine.log), settings.workload.requests

    def side(*, recorded: bool) -> Callable[[int], loops.Pass]:
        def run(pair: int) -> loops.Pass:
            loops._reset(engine)  # a round trip: nothing runs any more
            switch = toggled.switch(steps)
            switch.unlink(missing_ok=True) if recorded else switch.touch()
            before = len(step_records.read(steps))
            made = _pass(concurrency, settings, model, topology, pair, per_slot)
            loops._reset(engine)
            if (len(step_records.read(steps)) > before) is not recorded:
                raise EngineFailure(f"the engine {'did not record' if recorded else 'recorded'}: the switch failed")
            return made

        return run

    with_it, without = side(recorded=True), side(recorded=False)
    for warm_up in (with_it, without):
        warm_up(pairs)
    results = in_pairs(f"recording, {concurrency} at a time", with_it, without, pairs, max_others)
    load = (
        f"{settings.workload.prompt_lengths[0]} in, {settings.workload.output_tokens} out, {concurrency} × {per_slot}"
    )

    return [
        loops._compared(results, load, "throughput", "tok/s", lambda made: made.tokens / made.seconds, THROUGHPUT),
        loops._compared(results, load, "token gap p50", "s", lambda made: median(made.gaps)),
    ]


def _pass(
    concurrency: int, settings: Settings, model: model.Model, topology: Topology, pair: int, per_slot: int
) -> loops.Pass:
    workload = settings.workload.model_copy(update={"requests": per_slot * concurrency, "warmup_requests": 0})
    return loops._taken(
        measure(loops._case(concurrency, loops._seeded(settings, workload, pair)), model, topology, repeats=1)
    )


class _Scheduler:
    """In vLLM's place: does nothing."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def schedule(self) -> Any:
        return self.output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> None: ...

    def has_unfinished_requests(self) -> bool:
        return True


def _hooks(path: Path, steps: np.ndarray) -> list[dict[str, float | None]]:
    """For each of HOOKED: microseconds that the hooks add to a step (writing included), beside a real step's time."""
    from context_research.engines.vllm.step_recorder import Recording

    class Recorded(Recording, _Scheduler): ...

    rows: list[dict[str, float | None]] = []
    with changed({step_records.PATH: str(path)}):
        for requests in HOOKED:
            names = [f"request-{index}" for index in range(requests)]
            output = SimpleNamespace(
                num_scheduled_tokens=dict.fromkeys(names, 1),
                total_num_scheduled_tokens=requests,
                scheduled_new_reqs=[],
                scheduled_cached_reqs=SimpleNamespace(req_ids=names, num_computed_tokens=[1000] * requests),
            )
            us = (_seconds_of(Recorded(output)) - _seconds_of(_Scheduler(output))) * 1e6
            alike = steps[(steps["decode_requests"] == requests) & (steps["prefill_requests"] == 0)]["seconds"]
            step = float(np.median(alike)) if len(alike) else None
            rows.append(
                {
                    "requests": requests,
                    "us": us,
                    "step_ms": step and step * 1e3,
                    "steps": len(alike),
                    "share": step and us / step / 1e6,
                }
            )
    return rows


def _seconds_of(scheduler: _Scheduler, calls: int = 2000, series: int = 7) -> float:
    """Seconds of one step's two calls: the median of some series."""
    taken = []
    for _ in range(series):
        began = time.perf_counter()
        for _ in range(calls):
            scheduler.update_from_output(scheduler.schedule(), None)
        taken.append((time.perf_counter() - began) / calls)
    return median(taken)


if __name__ == "__main__":
    main()
