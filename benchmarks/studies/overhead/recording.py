"""What recording every step costs: throughput with it against without, and the two hooks alone. See README.md."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Unpack

import click
import numpy as np
from tabulate import tabulate

import common
import toggled
from bench import Bench, Pass, compared, started
from context_research.backends.registry import backend_of
from context_research.engines import step_records
from context_research.engines.vllm.environment import changed
from context_research.errors import EngineFailure, UsageProblem
from context_research.settings.schema import Settings
from quiet import FEWEST, Pairing, TooBusy
from ratios import Bar, Comparison

THROUGHPUT = Bar(low=0.995)
HOOKED = (1, 16, 128)
"""Requests of a step for which the hooks are timed."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--pairs", type=click.IntRange(FEWEST), default=80, help="Pairs of short runs, per load.")
@common.max_others
@common.out
@common.asked
def main(pairs: int, max_others: float, out: Path | None, **given: Unpack[common.Asked]) -> None:
    """Ratios of throughput with recording to without, one engine, in pairs; microseconds of the hooks in a step.

    Exit code 0 if every bar holds, 1 if one is missed or undecided, 2 if there is no result.
    """
    try:
        settings = _toggled(common.settings_of(given))
        backend_of(settings).check()
        with TemporaryDirectory(prefix="recording-") as folder:
            comparisons, steps = _compare(settings, Pairing(pairs, max_others), Path(folder) / "engine.log")
            hooks = _hooks(Path(folder) / "hooks.csv", steps)
    except (EngineFailure, UsageProblem, TooBusy) as problem:
        click.echo(f"ERROR: {problem}", err=True)
        sys.exit(common.NO_RESULT)
    environment = common.Environment.of(settings)
    header = ("requests", "hooks of a step", "median decode step", "share")
    click.echo(common.markdown(comparisons, environment))
    rows = [hook.row for hook in hooks]
    click.echo("\n" + tabulate(rows, headers=header, tablefmt="github", disable_numparse=True))
    common.finish(comparisons, environment, out, hooks=[asdict(hook) for hook in hooks])


def _toggled(settings: Settings) -> Settings:
    """The settings with a scheduler that records only while it is told to. Sync or async, as vLLM chooses it."""
    name = "ToggledScheduler" if settings.device == "cpu" else "ToggledAsyncScheduler"
    args = settings.engine.args | {"scheduler_cls": f"toggled.{name}"}
    return settings.model_copy(update={"engine": settings.engine.model_copy(update={"args": args})})


def _compare(settings: Settings, pairing: Pairing, log: Path) -> tuple[list[Comparison], np.ndarray]:
    """Both sides at each load, on one running engine; and the engine's steps, with those of loads for the hooks."""
    steps = step_records.path_of(log)
    with started(settings, log) as bench:
        levels = settings.workload.concurrency
        comparisons = [comparison for level in levels for comparison in _at(level, bench, pairing)]
        toggled.switch(steps).unlink(missing_ok=True)
        # Short prompts and long answers: all requests of a load decode together for a while.
        short = settings.workload.model_copy(update={"prompt_lengths": (16,), "output_tokens": 64, "requests": 1})
        together = replace(bench, settings=settings.model_copy(update={"workload": short}))
        for level in HOOKED:
            together.measure(level, pair=pairing.pairs + 1)
    return comparisons, step_records.read(steps)


def _at(concurrency: int, bench: Bench, pairing: Pairing) -> list[Comparison]:
    steps = step_records.path_of(bench.engine.log)

    def side(*, recorded: bool) -> Callable[[int], Pass]:
        def run(pair: int) -> Pass:
            bench.reset_prefix_cache()  # a round trip: nothing runs any more
            switch = toggled.switch(steps)
            switch.unlink(missing_ok=True) if recorded else switch.touch()
            before = len(step_records.read(steps))
            made = bench.measure(concurrency, pair)
            bench.reset_prefix_cache()
            if (len(step_records.read(steps)) > before) is not recorded:
                raise EngineFailure(f"the engine {'did not record' if recorded else 'recorded'}: the switch failed")
            return made

        return run

    with_it, without = side(recorded=True), side(recorded=False)
    for warm_up in (with_it, without):
        warm_up(pairing.pairs)
    results = pairing.run(f"recording, {concurrency} at a time", with_it, without)
    load = bench.load(concurrency)
    return [
        compared(results, load, "throughput", "tok/s", lambda made: made.tokens / made.seconds, THROUGHPUT),
        compared(results, load, "token gap p50", "s", lambda made: median(made.gaps)),
    ]


class _Scheduler:
    """In vLLM's place: does nothing."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def schedule(self) -> Any:
        return self.output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> None: ...

    def has_unfinished_requests(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the hooks add to a step of so many decoding requests, beside a real one's median time."""

    requests: int
    us: float
    """Microseconds of the hooks, writing included."""
    step_ms: float | None
    """Of `steps` real steps; None where no step had so many."""
    steps: int
    share: float | None

    @property
    def row(self) -> tuple[object, ...]:
        step = "–" if self.step_ms is None else f"{self.step_ms:.2f} ms"
        return self.requests, f"{self.us:.1f} µs", step, "–" if self.share is None else f"{self.share:.3%}"


def _hooks(path: Path, steps: np.ndarray) -> list[Hooks]:
    """For each of HOOKED; `path` is where the hooks write, `steps` are those of a real engine."""
    from context_research.engines.vllm.step_recorder import Recording

    class Recorded(Recording, _Scheduler): ...

    found = []
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
            found.append(Hooks(requests, us, step and step * 1e3, len(alike), step and us / step / 1e6))
    return found


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
