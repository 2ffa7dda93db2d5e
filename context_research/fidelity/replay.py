"""A real run's requests served again by the simulated backend: same cases, seed, repeats, serving mode."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of
from context_research.compare import observations
from context_research.compare.comparison import Run
from context_research.compare.observations import Cases
from context_research.engines.simulated import profiles
from context_research.engines.simulated.profiles import DeviceProfile
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure.case import measure
from context_research.models import hub
from context_research.models.model import Model
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.run import StepTimesRecord
from context_research.serving import build, preflight
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.case import Case, at
from context_research.workload.prompts import requests


@dataclass(frozen=True, slots=True)
class Replayed:
    """What simulated engines did with the requests of several runs: `cases[i]` are the i-th run's."""

    cases: tuple[Cases, ...]
    steps: int
    extrapolated: int
    """Of the steps: those outside what the step-time model was fitted on."""
    step_times: tuple[StepTimesRecord, ...]
    """Of each engine, as it describes them."""


def replay(runs: Sequence[Run], real: Sequence[Cases], profile: str) -> Replayed:
    """Serve the requests of `runs`, which differ in nothing but their seeds, on one set of simulated engines.

    `real` is what they observed, `profile` a shipped one's name or a YAML file. Simulated engines are deterministic:
    of runs with one seed the first is served, and stands for all.
    Raises UsageProblem: the profile doesn't fit, the simulation is invalid, other requests than the run's came out.
    """
    first, known = runs[0], profiles.load(profile)
    _check_fits(first, known)
    settings, model = _settings(first, profile), _model(first)
    backend = backend_of(settings)
    _preflight(backend, model, [at(settings, case.axes) for case in first.summary.cases])
    for run, own in zip(runs, real, strict=True):
        _check_same_requests(run, own, settings, model)
    served: dict[tuple[object, ...], Cases] = {}
    found = []
    with tempfile.TemporaryDirectory(prefix="context-research-fidelity-") as scratch:
        folder = Path(scratch)
        try:
            topology = build.with_logs(backend, model, folder / "logs")
            try:
                topology.start()
                for run, own in zip(runs, real, strict=True):
                    seed = run.metadata.seed
                    key = (seed, *((case, len(repeats)) for case, repeats in own.items()))
                    if key not in served:
                        files = RunFiles(folder, f"{len(served)}")
                        served[key] = _served(run, own, settings.model_copy(update={"seed": seed}), topology, files)
                    found.append(served[key])
                step_times = tuple(e.simulated.step_times for e in topology.describe() if e.simulated)
                counters = [engine.counters for engine in topology.engines]
            finally:
                topology.close()
        except EngineFailure as failure:
            raise UsageProblem(f"run {first.files.run_id} can't be simulated: {failure}") from None
    steps, extrapolated = sum(c.steps for c in counters), sum(c.extrapolated for c in counters)
    return Replayed(tuple(found), steps, extrapolated, step_times)


def _served(run: Run, real: Cases, settings: Settings, topology: Topology, files: RunFiles) -> Cases:
    model = _model(run)
    for summary in run.summary.cases:
        case = at(settings, summary.axes)
        result = measure(case, model, topology, repeats=len(real[case.name]))
        if result.failure:
            raise UsageProblem(
                f"run {run.files.run_id}: its simulation is invalid, case {case.name}: {result.failure[:300]}"
            )
        # As the real run's went: rounded to what an artifact holds.
        store.append_lines(files.requests, [*result.windows(), *result.requests()])
    return observations.read(files)


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
    run_id, device, told = run.files.run_id, run.metadata.device, f"device profile {profile.name} is"
    if profile.device != device:
        raise UsageProblem(f"{told} for {profile.device}, run {run_id} ran on {device}")
    machine = run.metadata.environment_manifest.machine
    if device == "cpu" and (cores := len(machine.cpu.cores)) != profile.count:
        raise UsageProblem(f"{told} of {profile.count} CPU cores, run {run_id} ran on {cores}")
    gpus = {gpu.name for gpu in run.metadata.used_gpus}
    if device == "cuda" and profile.gpu_names and not gpus <= set(profile.gpu_names):
        raise UsageProblem(f"{told} for {', '.join(profile.gpu_names)}, run {run_id} ran on {', '.join(sorted(gpus))}")


def _preflight(backend: Backend, model: Model, cases: Sequence[Case]) -> None:
    backend.check()
    preflight.check(backend, model, [case.load for case in cases])


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
