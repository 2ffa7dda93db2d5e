"""Step times of a device profile: fits on the step records of real engines, or aiconfigurator's, scaled to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from context_research.engines.batch import Batch
from context_research.engines.simulated.profiles import AIConfigurator, DeviceProfile, Fit, Linear
from context_research.engines.simulated.step_time import linear
from context_research.engines.simulated.step_time.linear import FEATURES
from context_research.errors import UsageProblem
from context_research.fidelity.calibration_data import FEWEST, Measured, Steps
from context_research.fidelity.fit import HICCUP, Array, fit

_FOREIGN = {"prefill": "decode_", "decode": "prefill_"}
"""Role -> the features of work that is not its own."""
_FOREIGN_SHARE = 0.05
"""Of the steps of an engine that are not its role's own work: the fewest that say what such work costs."""


def step_time(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Linear | AIConfigurator, str]:
    """Step times, and what they rest on; fits of other models and engines are the base's. Raises UsageProblem."""
    if base is not None and isinstance(base.step_time, AIConfigurator):
        return _scaled(runs, base.step_time, f"device profile {base.name}")
    ids = ", ".join(run.run_id for run in runs)
    fits = Linear(source="linear", fits=_fits(runs, base))
    return fits, f"fitted on the steps of real engines, runs {ids}; residuals with each fit"


def _fits(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Fit, ...]:
    groups: dict[tuple[str, str, str, int], list[tuple[Measured, Steps]]] = {}
    for run in runs:
        for steps in run.engines:
            groups.setdefault(run.fit_key(steps.engine), []).append((run, steps.alone))
    fits = {key: _fit(key, measured) for key, measured in groups.items()}
    fits = {key: fitted.model_copy(update={"contention": _contention(fitted, runs)}) for key, fitted in fits.items()}
    others = base.step_time.fits if base is not None and isinstance(base.step_time, Linear) else ()
    return (*fits.values(), *(other for other in others if linear.key_of(other) not in fits))


def _fit(key: tuple[str, str, str, int], measured: Sequence[tuple[Measured, Steps]]) -> Fit:
    model, dtype, role, devices = key
    steps = np.concatenate([steps for _, steps in measured])
    ids = tuple(dict.fromkeys(run.run_id for run, _ in measured))
    # A few odd steps (a decode engine's own warm-up prefills two tokens) can't say what a feature costs.
    rare = [name for name in FEATURES[1:] if 0 < np.count_nonzero(steps[name]) < _fewest(name, role, len(steps))]
    for name in rare:
        steps = steps[steps[name] == 0]
    if len(steps) < FEWEST:
        raise UsageProblem(f"run {', '.join(ids)}: {len(steps)} steps of the {role} engine, a fit needs {FEWEST}")
    columns = np.column_stack([np.ones(len(steps)), *(steps[name] for name in FEATURES[1:])]).astype(float)
    fitted = fit(columns, steps["seconds"])
    kept = steps[fitted.kept]
    return Fit(
        model=model,
        dtype=dtype,
        role=role,  # type: ignore[arg-type]  # the run's settings were validated
        devices=devices,
        coefficients={name: float(value) for name, value in zip(FEATURES, fitted.coefficients, strict=True)},
        ranges={name: (float(kept[name].min()), float(kept[name].max())) for name in FEATURES[1:]},
        residuals=fitted.residuals,
        steps=len(kept),
        runs=ids,
        vllm=measured[0][0].vllm,
    )


def _contention(fitted: Fit, runs: Sequence[Measured]) -> float | None:
    """How much slower the fit's steps were beside another engine at work; None where too few were.

    Of a step of D seconds, O of them beside another, the work done is D − O + O ÷ (1 + contention); summed over all
    steps, that is what the fit says of them alone.
    """
    alone = linear.LinearStepTime(fitted)
    work = spent = shared = 0.0
    count = 0
    for run in runs:
        for of in run.engines:
            if run.fit_key(of.engine) != linear.key_of(fitted):
                continue
            seconds = of.contended["seconds"]
            times = np.array([alone.of(batch).seconds for batch in _batches(of.contended)])
            kept = seconds <= HICCUP * times
            work += float(times[kept].sum())
            spent += float((seconds - of.overlap)[kept].sum())
            shared += float(of.overlap[kept].sum())
            count += int(kept.sum())
    if count < FEWEST or work <= spent:
        return None
    return max(0.0, shared / (work - spent) - 1)


def _fewest(feature: str, role: str, steps: int) -> float:
    foreign = _FOREIGN.get(role)
    return max(FEWEST, _FOREIGN_SHARE * steps) if foreign and feature.startswith(foreign) else FEWEST


def _scaled(runs: Sequence[Measured], base: AIConfigurator, origin: str) -> tuple[AIConfigurator, str]:
    from context_research.engines.simulated.step_time.aiconfigurator import AIConfiguratorStepTime

    raw = base.model_copy(update={"scale": 1.0, "overhead_s": 0.0})
    modelled, measured = list[float](), list[float]()
    for run in runs:
        for steps in run.engines:
            estimates = AIConfiguratorStepTime(raw, run.model, len(steps.engine.devices), origin)
            modelled += [estimates.of(batch).seconds for batch in _batches(steps.alone)]
            measured += steps.alone["seconds"].tolist()
    if len(measured) < FEWEST:
        raise UsageProblem(f"run {runs[0].run_id}: {len(measured)} steps, a fit needs {FEWEST}")
    columns: Array = np.column_stack([modelled, np.ones(len(modelled))])
    fitted = fit(columns, np.array(measured))
    scale, overhead = map(float, fitted.coefficients)
    if scale <= 0:
        raise UsageProblem(
            f"the steps of run {runs[0].run_id} do not grow with aiconfigurator's: calibrate without a base"
        )
    ids, kept = tuple(run.run_id for run in runs), int(fitted.kept.sum())
    scaled = raw.model_copy(update={"scale": scale, "overhead_s": overhead, "calibrated": ids})
    return scaled, f"aiconfigurator-core, scale and overhead fitted on {kept} steps: {fitted}"


def _batches(steps: Steps) -> list[Batch]:
    return [Batch(*(int(step[name]) for name in Batch.__dataclass_fields__)) for step in steps]
