"""A real run's requests served again by the simulated backend: same cases, seed, repeats, serving mode."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from context_research.backends.registry import backend_of
from context_research.compare.comparison import Run
from context_research.compare.observations import Cases
from context_research.engines.base import Counters
from context_research.engines.simulated import profiles
from context_research.engines.simulated.profiles import DeviceProfile
from context_research.errors import EngineFailure, UsageProblem
from context_research.fidelity.calibrate import check_machine
from context_research.measure.case import measure
from context_research.measure.metrics import Repeat
from context_research.models import hub
from context_research.models.model import Model
from context_research.records.run import StepTimesRecord
from context_research.serving import build, preflight
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.case import Case, at, engine_settings
from context_research.workload.load import loads
from context_research.workload.prompts import requests


@dataclass(frozen=True, slots=True)
class Replayed:
    """What simulated engines did with the requests of several runs: `cases[i]` are the i-th run's."""

    cases: tuple[Cases, ...]
    steps: int
    extrapolated: int
    """Of the steps: those outside what the step-time model was fitted on."""
    step_times: tuple[StepTimesRecord, ...]
    """Of each engine."""


def replay(runs: Sequence[Run], real: Sequence[Cases], profile: str) -> Replayed:
    """Serve the requests of `runs`, which differ in nothing but their seeds, on the same simulated engines.

    `real` is what they observed, `profile` a shipped one's name or a YAML file. Simulated engines are deterministic:
    of runs with one seed the first is served, and stands for all.
    Raises UsageProblem: the profile doesn't fit, the simulation is invalid, other requests than the run's came out.
    """
    first, model = runs[0], _model(runs[0])
    groups = _checked(runs, real, profile, model)
    keys = [_load_of(run, own) for run, own in zip(runs, real, strict=True)]
    served: dict[object, Cases] = {key: {} for key in keys}
    counters, step_times = list[Counters](), list[StepTimesRecord]()
    for group in groups:
        with _engines(first, group[0].settings, model) as topology:
            for key, run, own in zip(keys, runs, real, strict=True):
                for case in group:
                    if case.name not in served[key]:
                        served[key][case.name] = _served(run, case, len(own[case.name]), model, topology)
            counters += [engine.counters for engine in topology.engines]
            step_times += [engine.simulated.step_times for engine in topology.describe() if engine.simulated]
    return Replayed(
        cases=tuple(served[key] for key in keys),
        steps=sum(each.steps for each in counters),
        extrapolated=sum(each.extrapolated for each in counters),
        step_times=tuple(step_times),
    )


def _checked(runs: Sequence[Run], real: Sequence[Cases], profile: str, model: Model) -> list[list[Case]]:
    """The cases, together those that are served by the same engines, once nothing speaks against simulating them."""
    _check_fits(runs[0], profiles.load(profile))
    settings = _settings(runs[0], profile)
    cases = [at(settings, case.axes) for case in runs[0].summary.cases]
    groups = [list(alike) for _, alike in groupby(cases, lambda case: engine_settings(case.settings))]
    backend_of(settings).check()
    for group in groups:
        preflight.check(backend_of(group[0].settings), model, [load for case in group for load in loads(case)])
    for run, own in zip(runs, real, strict=True):
        _check_same_requests(run, own, settings, model)
    return groups


def _load_of(run: Run, real: Cases) -> object:
    """What decides which requests a run sends; of runs that have it in common one stands for all."""
    return run.metadata.seed, tuple((case, len(repeats)) for case, repeats in real.items())


@contextlib.contextmanager
def _engines(run: Run, settings: Settings, model: Model) -> Iterator[Topology]:
    """Simulated engines, which serve while this is open. Raises UsageProblem where they can't."""
    with tempfile.TemporaryDirectory(prefix="context-research-fidelity-") as logs:
        try:
            topology = build.with_logs(backend_of(settings), model, Path(logs))
            with contextlib.closing(topology):
                topology.start()
                yield topology
        except EngineFailure as failure:
            raise UsageProblem(f"run {run.files.run_id} can't be simulated: {failure}") from None


def _served(run: Run, case: Case, repeats: int, model: Model, topology: Topology) -> list[Repeat]:
    """The repeats with the run's seed, as a reader of their artifact sees them: the real ones are rounded too."""
    settings = case.settings.model_copy(update={"seed": run.metadata.seed})
    result = measure(replace(case, settings=settings), model, topology, repeats=repeats)
    if result.failure:
        raise UsageProblem(
            f"run {run.files.run_id}: its simulation is invalid, case {case.name}: {result.failure[:300]}"
        )
    timelines = [record.timeline() for record in result.requests() if record.phase != "warmup"]
    return [
        Repeat.read(window, [timeline for timeline in timelines if timeline.repeat == window.repeat])
        for window in result.windows()
    ]


def _settings(run: Run, profile: str) -> Settings:
    return run.metadata.resolved_settings({"backend": "simulated", "device_profile": profile})


def _model(run: Run) -> Model:
    """The run's model, by its config alone; it has the run's own label, by which fits are looked up."""
    settings, known = run.metadata.resolved_settings().model, run.metadata.model
    model = hub.resolve(settings, config_only=True)
    if settings.weights == "hub":  # whose hash is of weights that need not be here
        return replace(model, weights_hash=known.hash or "")
    if model.label != known.label:
        raise UsageProblem(f"run {run.files.run_id} served {known.label}, which is {model.label} here now")
    return model


def _check_fits(run: Run, profile: DeviceProfile) -> None:
    device, cores = run.metadata.device, len(run.metadata.environment_manifest.machine.cpu.cores)
    check_machine(profile, run.files.run_id, device, sorted({gpu.name for gpu in run.metadata.used_gpus}))
    if device == "cpu" and cores != profile.count:
        raise UsageProblem(
            f"device profile {profile.name} is of {profile.count} CPU cores, run {run.files.run_id} ran on {cores}"
        )


def _check_same_requests(run: Run, real: Cases, settings: Settings, model: Model) -> None:
    """What was measured must be what will be simulated: another version may draw other prompts."""
    settings = settings.model_copy(update={"seed": run.metadata.seed})
    for summary in run.summary.cases:
        case = at(settings, summary.axes)
        sent = {(t.repeat, t.prompt_sha256) for repeat in real[case.name] for t in repeat.timelines}
        again = {
            (number, request.sha256)
            for number in range(len(real[case.name]))
            for request in requests(case, model.vocabulary, number)
            if request.phase == "measured"
        }
        if sent != again:
            raise UsageProblem(
                f"run {run.files.run_id}, case {case.name}: its requests are not those that this version makes of its "
                "seed: run it again"
            )
