"""Device profiles on the command line: list them, and make one from real runs."""

from __future__ import annotations

from pathlib import Path

import click

from context_research import artifacts, settings
from context_research.artifacts import RunFiles
from context_research.errors import UsageProblem
from context_research.options import from_environment
from context_research.simulation import profiles


@click.command("calibrate")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option("--device-profile", "base", default=None, help="Profile that gives what the runs can't say.")
@click.option("--write", "path", type=click.Path(path_type=Path, dir_okay=False), required=True, help="YAML file.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--outputs",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of the runs (default: CONTEXT_RESEARCH_OUTPUTS, else outputs).",
)
def calibrate(runs: tuple[str, ...], base: str | None, path: Path, force: bool, outputs: Path | None) -> None:
    """Make a device profile for the simulated backend from real runs of this machine.

    Both modes and several prompt lengths give the best one. With a base that uses aiconfigurator, its scale and its
    overhead are fitted; otherwise a linear model for each kind of engine.
    """
    from context_research.simulation import calibration, measured  # scipy: half a second that other commands need not

    if path.exists() and not force:
        raise UsageProblem(f"--write {path}: it exists already; choose another name, or replace it with --force")
    folder = outputs or Path(settings.parse_options("environment", from_environment()).values.get("outputs", "outputs"))
    files: list[RunFiles] = [artifacts.find_run(folder, name) for name in runs]
    taken = measured.load(files)
    profile = calibration.calibrate(taken, profiles.load(base) if base else None, path.stem)
    command = ["calibrate", *(one.run_id for one in files), *(["--device-profile", base] if base else [])]
    calibration.write(profile, path, f"python -m context_research.cli {' '.join(command)}", force=force)
    calibration.table(profile, click.echo)
    click.echo(path)


@click.command("device-profiles")
def device_profiles() -> None:
    """List the shipped device profiles, and the GPU systems and models that aiconfigurator covers."""
    from context_research.simulation import aiconfigurator

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
