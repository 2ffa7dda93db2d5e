"""How far the simulated backend is off on this machine: calibrated on some loads of real engines, tried on others.

    CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND=1 python benchmarks/studies/simulation/held_out.py --out outputs/held-out

Sessions of both modes and both kinds in turn, so that what the machine does meanwhile falls on all alike.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

FITTED = ("--prompt-lengths=128,384,1536", "--concurrency=1,2,6", "--output-tokens=24", "--requests=17", "--repeats=1")
TRIED = ("--prompt-lengths=256,1024", "--concurrency=1,4", "--output-tokens=32", "--requests=17", "--repeats=3")
MODES = ("aggregated", "disaggregated")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for runs and reports."
)
@click.option("--rounds", default=2, show_default=True, help="Sessions of each mode and kind.")
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def main(out: Path, rounds: int, pytest_options: tuple[str, ...]) -> None:
    """Run real sessions, calibrate a profile on the fitted ones, and report its errors on the others."""
    fitted: list[str] = []
    tried: list[str] = []
    for number in range(rounds):
        order = [(mode, kind) for mode in MODES for kind in ("fitted", "tried")]
        for mode, kind in order if number % 2 == 0 else order[::-1]:
            run_id = f"{kind}-{mode}-{number}"
            (fitted if kind == "fitted" else tried).append(run_id)
            if (out / "runs" / run_id / "run_metadata.json").is_file():
                continue  # of an earlier call that was cut short
            load = FITTED if kind == "fitted" else TRIED
            store = f"--benchmark-storage=file://{out.absolute()}/benchmarks"
            given = [
                store,
                f"--serving={mode}",
                f"--seed={number}",
                f"--run-id={run_id}",
                f"--outputs={out.absolute()}",
            ]
            _call("-m", "pytest", "benchmarks/e0", "-q", *given, *load, *pytest_options)
    profile = out / "profile.yaml"
    _cli("calibrate", *fitted, "--outputs", str(out), "--write", str(profile), "--force")
    _cli("fidelity", *tried, "--outputs", str(out), "--device-profile", str(profile))


def _cli(*arguments: str) -> None:
    _call("-m", "context_research.cli", *arguments)


def _call(*arguments: str) -> None:
    click.echo(f"$ python {' '.join(arguments)}")
    if subprocess.run([sys.executable, *arguments], check=False).returncode:
        raise click.ClickException(f"that failed: {' '.join(arguments)}")


if __name__ == "__main__":
    main()
