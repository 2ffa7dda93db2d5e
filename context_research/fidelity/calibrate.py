"""A device profile from real runs: step times, the link between two engines, the client; with what each rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from context_research.engines.simulated.profiles import DeviceProfile, Linear
from context_research.errors import UsageProblem
from context_research.fidelity import calibrate_link, calibrate_steps
from context_research.fidelity.calibration_data import Measured
from context_research.records import store


def calibrate(runs: Sequence[Measured], base: DeviceProfile | None, name: str) -> DeviceProfile:
    """The profile `name` of the runs' machine; what they can't say is `base`'s. Raises UsageProblem."""
    first, ids = runs[0], ", ".join(run.run_id for run in runs)
    machine, cuda = first.machine, first.settings.device == "cuda"
    gpus = sorted({gpu.name for gpu in machine.gpus})
    if base is not None:
        check_machine(base, first.run_id, first.settings.device, gpus)
    steps, step_provenance = calibrate_steps.step_time(runs, base)
    link, link_provenance = calibrate_link.link(runs, base)
    client, client_provenance = calibrate_link.client(runs, base)
    return DeviceProfile(
        name=name,
        device=first.settings.device,
        count=len(machine.gpus if cuda else machine.cpu.cores),
        memory_bytes=(machine.gpus[0] if cuda else machine.cpu).memory_bytes or 0,
        gpu_names=tuple(gpus) if cuda else (),
        link=link,
        client=client,
        step_time=steps,
        provenance={
            "memory_bytes": f"{'NVML' if cuda else 'the system'}, runs {ids}",
            "count": f"{'GPUs' if cuda else 'CPU cores'} of the machine, runs {ids}",
            "step_time": step_provenance,
            "link": link_provenance,
            "client": client_provenance,
        },
    )


def check_machine(profile: DeviceProfile, run_id: str, device: str, gpus: Sequence[str]) -> None:
    """Raises UsageProblem where `profile` is not for the device and GPUs (NVML names) that a run was on."""
    if profile.device != device:
        raise UsageProblem(f"device profile {profile.name} is for {profile.device}, run {run_id} ran on {device}")
    if device == "cuda" and profile.gpu_names and not set(gpus) <= set(profile.gpu_names):
        raise UsageProblem(
            f"device profile {profile.name} is for {', '.join(profile.gpu_names)}, run {run_id} ran on "
            f"{', '.join(gpus)}"
        )


def write(profile: DeviceProfile, path: Path, command: str, *, force: bool) -> None:
    """The profile as YAML, whole or not at all. Raises UsageProblem: there is one, no YAML name, can't be written."""
    if path.suffix not in (".yaml", ".yml"):
        raise UsageProblem(f"--write {path}: a device profile's name ends in .yaml")
    if path.exists() and not force:
        raise UsageProblem(f"--write {path}: it exists already; choose another name, or replace it with --force")
    text = yaml.safe_dump(_short(profile.model_dump(mode="json")), sort_keys=False, allow_unicode=True, width=118)
    try:
        store.replace(path, f"# Written by {command}\n{text}")
    except OSError as error:
        raise UsageProblem(f"--write {path}: {error.strerror}") from None


def _short(value: object) -> object:
    """Floats to 6 figures: more are noise, and make a file that nobody can read."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def table(profile: DeviceProfile, echo: Callable[[str], None]) -> None:
    """How well a calibrated profile fits, a line for each fit."""
    if isinstance(profile.step_time, Linear):
        for fit in profile.step_time.fits:
            shares = ", ".join(f"{name} {share:+.1%}" for name, share in fit.residuals.items())
            echo(f"{fit.model} {fit.dtype}, {fit.role} × {fit.devices}: {fit.steps} steps; {shares}")
    for what in ("step_time", "link", "client"):
        echo(f"{what}: {profile.provenance[what]}")
