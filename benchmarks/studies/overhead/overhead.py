"""What our measuring loop costs, against a bare AsyncLLM loop and vLLM's own latency benchmark. See README.md."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Unpack

import click

import common
import latency
import loops
from context_research.backends.registry import backend_of
from context_research.errors import EngineFailure, UsageProblem
from quiet import FEWEST, Pairing, TooBusy
from ratios import Comparison


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--pairs", type=click.IntRange(FEWEST), default=80, help="Pairs of short runs against the bare loop, per load."
)
@click.option(
    "--process-pairs", type=click.IntRange(FEWEST), default=8, help="Pairs of processes against vLLM's benchmark."
)
@common.max_others
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=float("inf"),
    show_default="no limit",
    help=f"`bare`: begin no pair later than this after the start, once there are {FEWEST} of a load.",
)
@click.option("--only", type=click.Choice(["bare", "vllm"]), default=None, help="One comparison instead of both.")
@common.out
@click.option("--iterations", type=click.IntRange(8), default=30, help="`vllm`: requests of a process, after warm-up.")
@common.asked
def main(
    pairs: int,
    process_pairs: int,
    iterations: int,
    max_others: float,
    seconds: float,
    only: str | None,
    out: Path | None,
    **given: Unpack[common.Asked],
) -> None:
    """Ratios of ours to the other side's, measured in pairs, on real vLLM engines.

    Exit code 0 if every bar holds, 1 if one is missed or undecided, 2 if there is no result.
    """
    deadline = time.monotonic() + seconds
    load_before, comparisons = os.getloadavg(), list[Comparison]()
    try:
        settings = common.settings_of(given)
        backend_of(settings).check()
        with TemporaryDirectory(prefix="overhead-") as folder:
            if only != "vllm":
                log = Path(folder) / "engine.log"
                comparisons += loops.compare(settings, Pairing(pairs, max_others, deadline), log)
            if only != "bare":
                pairing = Pairing(process_pairs, max_others)
                comparisons += latency.compare(settings, pairing, iterations, Path(folder))
    except (EngineFailure, UsageProblem, TooBusy, TimeoutExpired) as problem:
        click.echo(f"ERROR: {problem}", err=True)
        sys.exit(common.NO_RESULT)
    environment = common.Environment.of(settings, load_before)
    click.echo(common.markdown(comparisons, environment))
    common.finish(comparisons, environment, out)


if __name__ == "__main__":
    main()
