"""``context-research plan``: before hardware is rented, what each way to use it would carry. Simulated."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

import click
import yaml

from context_research.backends.simulated import require_opt_in
from context_research.cli import outputs as outputs_option
from context_research.compare.ab import arms
from context_research.engines.simulated import profiles
from context_research.errors import UsageProblem
from context_research.measure.knee import Knee, grid
from context_research.models import hub
from context_research.planning import candidates as ways
from context_research.planning import search
from context_research.plugin import project
from context_research.records import store
from context_research.records.capacity_plan import CandidateRecord, CapacityPlanRecord, CarriedRecord
from context_research.records.files import PlanFiles, new_run_id
from context_research.records.run import ErrorRecord, ModelRecord, this_command
from context_research.report import capacity_plan as report
from context_research.settings import options
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer


class Limits(click.ParamType[dict[str, float]]):
    """``ttft=2,tpot=0.05``"""

    name = "limits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        try:
            pairs = [part.split("=") for part in value.split(",")]
            return {name.strip(): float(number) for name, number in pairs}
        except ValueError:
            self.fail(f"{value}: expected limits in seconds such as ttft=2,tpot=0.05", param, ctx)


class Chunks(click.ParamType[list[int]]):
    """``2048,8192``"""

    name = "chunks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            found = value if isinstance(value, list) else options.integers(value)
        except ValueError:
            found = []
        if not found or min(found) < 1 or len(set(found)) < len(found):
            self.fail(f"{value}: expected numbers of tokens such as 2048,4096,8192", param, ctx)
        return found


@click.command()
@click.argument("experiment", default="e1")
@click.option("--device-profile", "profile", required=True, help="What the GPUs are: device-profiles lists them.")
@click.option("--devices", type=click.IntRange(min=1), required=True, help="How many of them.")
@click.option("--workload", type=click.Path(path_type=Path), help="Load, model and limits: a YAML of the experiment's.")
@click.option("--slo", "slos", type=Limits(), multiple=True, help="Limits in their place, as often as there are sets.")
@click.option("--chunks", type=Chunks(), default="2048,4096,8192", show_default=True, help="Tokens of a step, at most.")
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
    require_opt_in()
    began = time.monotonic()
    known = profiles.load(profile)
    if known.device != "cuda":
        raise UsageProblem(f"--device-profile {profile}: a plan is for GPUs, and that is a CPU")
    if devices > known.count:
        raise UsageProblem(f"--devices {devices}: the profile {profile} has {known.count} GPUs")
    given_options = [*pytest_options, *([f"--experiment-config={workload}"] if workload else [])]
    found, here = project.ask(experiment, given_options)
    given = [*here.layers, Layer("--seed", {"seed": seed}), Layer("--device-profile", {"device_profile": profile})]
    if slos:
        given.append(Layer("--slo", {"slo": list(slos)}))
    settings = arms.settings(found.name, "serving", "aggregated", given_options, given, found.configs, here.root)
    _check(experiment, settings)
    model = hub.resolve(settings.model, config_only=True)
    series = list(ways.series(devices, chunks, int(model.config["num_attention_heads"])))
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
        model=ModelRecord(
            name=settings.model.name,
            weights=settings.model.weights,
            revision=model.revision,
            hash=model.weights_hash,
            label=model.label,
        ),
        settings=settings.model_dump(mode="json"),
        device_profile=f"{known.name} {known.digest}",
        calibrated=known.calibrated,
        errors={
            metric: {statistic: ErrorRecord(**error.model_dump()) for statistic, error in of.items()}
            for metric, of in (known.fidelity.errors if known.fidelity else {}).items()
        },
        devices=devices,
        slos=settings.slos,
        candidates=tuple(_record(each) for each in results),
        seconds=round(time.monotonic() - began, 1),
    )
    store.write(files.record, record)
    commands = _commands(files, record, results, _given(pytest_options, workload, slos))
    report.write(files, commands)
    click.echo(f"{report.terminal(record, commands)}\n\nreport  {files.report}")


def _check(experiment: str, settings: Settings) -> None:
    """Raises UsageProblem: there is no rate to raise, or no limit to miss."""
    if settings.workload.arrivals != "open":
        raise UsageProblem(f"{experiment}: its load is {settings.workload.arrivals}; capacity is an open load's")
    if not all(slo.given for slo in settings.slos) and not settings.workload.class_slos:
        raise UsageProblem(f"{experiment}: without limits nothing is missed at any rate (--slo ttft=2,tpot=0.05)")


def _record(found: search.Found) -> CandidateRecord:
    way = found.candidate
    return CandidateRecord(
        name=way.name,
        tensor_parallel=way.tensor_parallel,
        chunk=way.chunk,
        carried=tuple(CarriedRecord(rate=each.rate, bound=each.bound) for each in found.capacities),
        well=found.well,
        problem=found.problem,
    )


def _given(pytest_options: tuple[str, ...], workload: Path | None, slos: tuple[dict[str, float], ...]) -> list[str]:
    """pytest's options that make a real run one of the same load and limits."""
    limits = [f"{{{', '.join(f'{name}: {value:g}' for name, value in each.items())}}}" for each in slos]
    return [
        *pytest_options,
        *([f"--experiment-config={workload}"] if workload else []),
        *([f"--set=slo=[{', '.join(limits)}]"] if limits else []),
    ]


def _commands(files: PlanFiles, record: CapacityPlanRecord, found: list[search.Found], given: list[str]) -> list[str]:
    """For each SLO the A/B of its two best topologies, whose serving files are written here."""
    servings = {each.candidate.name: each.candidate.serving for each in found}
    commands = []
    for number in range(len(record.slos)):
        two = report.best(record, number)[:2]
        if len(two) < 2:
            continue
        texts = []
        for each in two:
            path = files.folder / f"{each.name}.yaml"
            serving = servings[each.name].model_dump(mode="json", exclude_none=True)
            store.replace(path, yaml.safe_dump(serving, sort_keys=False))
            texts.append(f"{path} --set engine.max_num_batched_tokens={each.chunk}")
        around = grid([Knee(rate, rate) for rate in (each.carried[number].rate * record.devices for each in two)])
        rates = f"--rates={','.join(f'{rate:g}' for rate in around)}"
        arms = [f"--arm={each.name}={text}" for each, text in zip(two, texts, strict=True)]
        words = ["context-research", "ab", record.experiment, *arms, "--", *given, rates]
        commands.append(shlex.join(words))
    return list(dict.fromkeys(commands))
