"""``context-research plan``: before hardware is rented, what each way to use it would carry. Simulated."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from context_research.backends.simulated import require_opt_in
from context_research.cli import outputs as outputs_option
from context_research.cli.parameters import Limits, Numbers
from context_research.compare.ab import arms
from context_research.engines.simulated import profiles
from context_research.engines.simulated.profiles import DeviceProfile
from context_research.errors import UsageProblem, given_twice
from context_research.models import hub
from context_research.plugin import project
from context_research.records import store
from context_research.records.capacity_plan import CandidateRecord, CapacityPlanRecord, CarriedRecord
from context_research.records.files import PlanFiles, new_run_id
from context_research.records.run import ModelRecord, this_command
from context_research.report import capacity_plan as report
from context_research.settings.sources import Layer

if TYPE_CHECKING:
    from context_research.planning.search import Found

_CHUNKS, _EXPERIMENT = "2048,4096,8192", "e1"


@click.command()
@click.argument("experiment", default=_EXPERIMENT)
@click.option("--device-profile", "profile", required=True, help="What the GPUs are: device-profiles lists them.")
@click.option("--devices", type=click.IntRange(min=1), required=True, help="How many of them.")
@click.option("--workload", type=click.Path(path_type=Path), help="Load, model and limits: a YAML of the experiment's.")
@click.option("--slo", "slos", type=Limits(), multiple=True, help="Limits in their place, as often as there are sets.")
@click.option("--chunks", type=Numbers(_CHUNKS), default=_CHUNKS, show_default=True, help="Tokens of a step, at most.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, help="Processes (default: a core's each)."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides the requests.")
@click.argument("pytest_options", nargs=-1, metavar="[-- PYTEST OPTIONS]")
@outputs_option.option
def plan(
    experiment: str,
    profile: str,
    devices: int,
    workload: Path | None,
    slos: tuple[dict[str, float], ...],
    chunks: list[int],
    jobs: int,
    seed: int,
    pytest_options: tuple[str, ...],
    outputs: Path | None,
) -> None:
    """Simulate every way to use so many GPUs, and rank them by the traffic that they carry within the limits.

    Replicas, tensor-parallel ones, and every ratio of prefill to decode engines, each with every chunk size. Nothing is
    measured: it ends with the command that would confirm the two best on real engines.
    """
    # They need numpy and more; `--help` does not.
    from context_research.measure import knee
    from context_research.planning import candidates, search

    if experiment.startswith("-"):  # click takes the first word for it, though that stands behind the --
        pytest_options, experiment = (experiment, *pytest_options), _EXPERIMENT
    require_opt_in()
    began = time.monotonic()
    known = _checked(profile, devices, chunks)
    own = [*pytest_options, *([f"--experiment-config={workload}"] if workload else [])]
    found, here = project.ask(experiment, own)
    given = [*here.layers, Layer("--seed", {"seed": seed}), Layer("--device-profile", {"device_profile": profile})]
    if slos:
        given.append(Layer("--slo", {"slo": list(slos)}))
        own.append(f"--set=slo=[{', '.join(map(_flow, slos))}]")
    settings = arms.settings(found.name, "serving", "aggregated", own, given, found.configs, here.root)
    knee.check(settings)
    if any(slo.ttft is None and slo.e2e is None for slo in settings.slos) and not settings.workload.class_slos:
        raise UsageProblem("limits without ttft or e2e are met by whoever lets requests wait: --slo ttft=2,tpot=0.05")
    model = hub.resolve(settings.model, config_only=True)
    series = list(candidates.series(devices, chunks, int(model.config["num_attention_heads"])))
    click.echo(f"SIMULATED: {sum(map(len, series))} ways to use {devices} × {profile}, {jobs} at a time", err=True)
    results = search.search(
        settings, model, series, jobs, lambda told: click.echo(f"{time.monotonic() - began:.0f} s: {told}", err=True)
    )
    files = PlanFiles(outputs_option.folder(outputs), new_run_id(settings.experiment, "plan", seed))
    record = CapacityPlanRecord(
        plan_id=files.plan_id,
        created=store.now(),
        command=tuple(this_command()),
        experiment=settings.experiment,
        model=ModelRecord.of(settings.model, model),
        settings=settings.model_dump(mode="json"),
        device_profile=f"{known.name} {known.digest}",
        calibrated=known.calibrated,
        errors=known.errors,
        devices=devices,
        slos=settings.slos,
        candidates=tuple(map(_record, results)),
        seconds=round(time.monotonic() - began, 1),
    )
    store.write(files.record, record)
    commands = _confirm(files, record, results, own)
    report.write(files, commands)
    click.echo(f"{report.terminal(record, commands)}\n\nreport  {files.report}")


def _checked(profile: str, devices: int, chunks: list[int]) -> DeviceProfile:
    """Raises UsageProblem: no such GPUs, or not so many; chunks that are none."""
    known = profiles.load(profile)
    if known.device != "cuda":
        raise UsageProblem(f"--device-profile {profile}: a plan is for GPUs, and that is a CPU")
    if devices > known.count:
        raise UsageProblem(f"--devices {devices}: the profile {profile} has {known.count} GPUs")
    if min(chunks) < 1 or given_twice(map(str, chunks)):
        raise UsageProblem(f"--chunks {','.join(map(str, chunks))}: expected numbers of tokens that differ")
    return known


def _flow(limits: dict[str, float]) -> str:
    """``{ttft: 2, tpot: 0.05}``, as --set has it."""
    return f"{{{', '.join(f'{name}: {value:g}' for name, value in limits.items())}}}"


def _record(found: Found) -> CandidateRecord:
    way = found.candidate
    return CandidateRecord(
        name=way.name,
        tensor_parallel=way.tensor_parallel,
        chunk=way.chunk,
        carried=tuple(CarriedRecord(rate=each.rate, bound=each.bound) for each in found.capacities),
        well=found.well,
        problem=found.problem,
    )


def _confirm(files: PlanFiles, record: CapacityPlanRecord, found: list[Found], own: list[str]) -> list[str]:
    """For each SLO the A/B of its two best topologies; their serving files are written. `own`: options of pytest's."""
    from context_research.measure.knee import Knee, grid

    servings = {each.candidate.name: each.candidate.serving for each in found}
    commands = []
    for number in range(len(record.slos)):
        if len(two := report.best(record, number)[:2]) < 2:
            continue
        named = []
        for each in two:
            path = files.folder / f"{each.name}.yaml"
            serving = servings[each.name].model_dump(mode="json", exclude_none=True)
            store.replace(path, yaml.safe_dump(serving, sort_keys=False))
            named.append(f"--arm={each.name}={shlex.quote(str(path))} --set engine.max_num_batched_tokens={each.chunk}")
        rates = [each.carried[number].rate * record.devices for each in two]
        around = grid([Knee(rate, rate) for rate in rates])
        words = [*named, "--primary=capacity", "--", *own, f"--rates={','.join(f'{rate:g}' for rate in around)}"]
        commands.append(shlex.join(["context-research", "ab", record.experiment, *words]))
    return list(dict.fromkeys(commands))
