"""Device profiles on the command line: list them, make one from real runs, hold simulations against real runs."""

from __future__ import annotations

from pathlib import Path

import click

from context_research.backends.simulated import require_opt_in
from context_research.cli import outputs as outputs_option
from context_research.engines.simulated import profiles
from context_research.errors import UsageProblem
from context_research.records.files import AbFiles, RunFiles, find, find_run


@click.command("calibrate")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option("--device-profile", "base", default=None, help="Profile that gives what the runs can't say.")
@click.option("--write", "path", type=click.Path(path_type=Path, dir_okay=False), required=True, help="YAML file.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@outputs_option.option
def calibrate(runs: tuple[str, ...], base: str | None, path: Path, force: bool, outputs: Path | None) -> None:
    """Make a device profile for the simulated backend from real runs of this machine.

    Both modes and several prompt lengths give the best one. With a base that uses aiconfigurator, its scale and its
    overhead are fitted; otherwise a linear model for each kind of engine.
    """
    from context_research.fidelity import calibrate, calibration_data

    if path.exists() and not force:
        raise UsageProblem(f"--write {path}: it exists already; choose another name, or replace it with --force")
    files: list[RunFiles] = [find_run(outputs_option.folder(outputs), name) for name in runs]
    taken = calibration_data.load(files)
    profile = calibrate.calibrate(taken, profiles.load(base) if base else None, path.stem)
    command = ["calibrate", *(one.run_id for one in files), *(["--device-profile", base] if base else [])]
    calibrate.write(profile, path, f"context-research {' '.join(command)}", force=force)
    calibrate.table(profile, click.echo)
    click.echo(path)


@click.command("fidelity")
@click.argument("names", nargs=-1, required=True, metavar="REAL_RUN… | AB")
@click.option(
    "--device-profile", "profile", default=None, help="Simulated machine (default: calibrated on the runs themselves)."
)
@click.option("--fail-on", type=click.Choice(["miss"]), help="Exit with 1 if a figure is outside its bar.")
@outputs_option.option
def fidelity(names: tuple[str, ...], profile: str | None, fail_on: str | None, outputs: Path | None) -> None:
    """Simulate real runs' requests, and report the error.

    Runs that differ in their seed alone are pooled, as are the sessions of an A/B's arm. With runs of both modes, or an
    A/B, it is also told whether the simulation finds the same one faster.
    """
    from context_research.fidelity import fidelity as held
    from context_research.fidelity import report as fidelity_report

    require_opt_in()
    found = [find(outputs_option.folder(outputs), name) for name in names]
    runs = [one for one in found if isinstance(one, RunFiles)]
    if isinstance(found[0], AbFiles) and len(found) == 1:
        told = held.of_ab(found[0], profile)
    elif len(runs) == len(found):
        told = held.of_runs(runs, profile)
    else:
        raise UsageProblem("name one A/B, or runs: not both together")
    path = fidelity_report.write(told)
    click.echo(f"{fidelity_report.terminal(told)}\n\nreport  {path}\n{fidelity_report.last_line(told)}")
    if fail_on and told.missed:
        raise SystemExit(1)


@click.command("device-profiles")
def device_profiles() -> None:
    """List the shipped device profiles, and the GPU systems and models that aiconfigurator covers."""
    from context_research.engines.simulated.step_time import aiconfigurator

    for name in profiles.names():
        profile = profiles.load(name)
        known = "calibrated" if profile.calibrated else "not calibrated"
        click.echo(f"{name}: {profile.device} × {profile.count}, step times by {profile.step_time.source}, {known}")
        click.echo(f"    {profile.provenance['step_time']}")
    if (version := aiconfigurator.installed()) is None:
        click.echo("aiconfigurator-core is not installed: pip install 'context-research[simulated]'")
        return
    click.echo(f"aiconfigurator-core {version} has measured kernels of")
    for system in aiconfigurator.coverage():
        click.echo(f"  {system.name} (vllm {system.kernels}): {', '.join(system.models)}")
