"""A device profile from real runs: step times, the link between two engines, the client; with what each rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from context_research.engines.batch import Batch
from context_research.engines.simulated.profiles import (
    AIConfigurator,
    Client,
    DeviceProfile,
    Fit,
    Linear,
    Link,
    descriptors,
)
from context_research.engines.simulated.step_time import linear
from context_research.engines.simulated.step_time.linear import FEATURES
from context_research.engines.vllm.handoff import has_progress_thread
from context_research.errors import UsageProblem
from context_research.fidelity.calibration_data import FEWEST, Measured
from context_research.fidelity.fit import HICCUP, Array, Fitted, fit
from context_research.records import store

Part = TypeVar("Part", Link, Client)
_FOREIGN = {"prefill": "decode_", "decode": "prefill_", "aggregated": None}
_FOREIGN_SHARE = 0.05
"""Of the steps of an engine that are not its role's own work: the fewest that say what such work costs."""


def calibrate(runs: Sequence[Measured], base: DeviceProfile | None, name: str) -> DeviceProfile:
    """The profile `name` of the runs' machine; what they can't say is `base`'s. Raises UsageProblem."""
    first, ids = runs[0], ", ".join(run.run_id for run in runs)
    gpus = sorted({gpu.name for gpu in first.machine.gpus})
    if base is not None:
        _check_machine(base, first, gpus)
    cuda = first.settings.device == "cuda"
    provenance = {"memory_bytes": f"{'NVML' if cuda else 'the system'}, runs {ids}"}
    provenance["count"] = f"{'GPUs' if cuda else 'CPU cores'} of the machine, runs {ids}"
    if base is not None and isinstance(base.step_time, AIConfigurator):
        steps: Linear | AIConfigurator
        steps, provenance["step_time"] = _scaled(runs, base)
    else:
        steps = Linear(source="linear", fits=_fits(runs, base))
        provenance["step_time"] = f"fitted on the steps of real engines, runs {ids}; residuals with each fit"
    link, provenance["link"] = _link(runs, base)
    client, provenance["client"] = _client(runs, base)
    return DeviceProfile(
        name=name,
        device=first.settings.device,
        count=len(first.machine.gpus if cuda else first.machine.cpu.cores),
        memory_bytes=(first.machine.gpus[0] if cuda else first.machine.cpu).memory_bytes or 0,
        gpu_names=tuple(gpus) if cuda else (),
        link=link,
        client=client,
        step_time=steps,
        provenance=provenance,
    )


def write(profile: DeviceProfile, path: Path, command: str, *, force: bool) -> None:
    """The profile as YAML, whole or not at all. Raises UsageProblem: there is one, no YAML name, can't be written."""
    if path.suffix not in (".yaml", ".yml"):
        raise UsageProblem(f"--write {path}: a device profile's name ends in .yaml")
    if path.exists() and not force:
        raise UsageProblem(f"--write {path}: it exists already; choose another name, or replace it with --force")
    tree = profile.model_dump(mode="json")
    text = yaml.safe_dump(_short(tree), sort_keys=False, allow_unicode=True, width=118)
    try:
        store.replace(path, f"# Written by {command}\n{text}")
    except OSError as error:
        raise UsageProblem(f"--write {path}: {error.strerror}") from None


def _short(value: Any) -> Any:
    """Floats to 6 figures: more are noise, and make a file that nobody can read."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _check_machine(base: DeviceProfile, run: Measured, gpus: list[str]) -> None:
    device = run.settings.device
    if base.device != device:
        raise UsageProblem(f"device profile {base.name} is for {base.device}, run {run.run_id} ran on {device}")
    if device == "cuda" and base.gpu_names and not set(gpus) <= set(base.gpu_names):
        raise UsageProblem(
            f"device profile {base.name} is for {', '.join(base.gpu_names)}, run {run.run_id} ran on {', '.join(gpus)}"
        )


def _fits(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Fit, ...]:
    groups: dict[tuple[str, str, str, int], list[tuple[Measured, Any]]] = {}
    for run in runs:
        for engine, steps in run.steps:
            key = (run.model.label, run.model.dtype, engine.role, len(engine.devices))
            groups.setdefault(key, []).append((run, steps))
    fits = {key: _fit(key, measured) for key, measured in groups.items()}
    fits = {key: fitted.model_copy(update={"contention": _contention(fitted, runs)}) for key, fitted in fits.items()}
    others = base.step_time.fits if base is not None and isinstance(base.step_time, Linear) else ()
    return (*fits.values(), *(other for other in others if linear.key_of(other) not in fits))


def _fit(key: tuple[str, str, str, int], measured: Sequence[tuple[Measured, Any]]) -> Fit:
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
        for engine, steps, beside in run.contended:
            if (run.model.label, run.model.dtype, engine.role, len(engine.devices)) != linear.key_of(fitted):
                continue
            times = np.array([alone.of(_batch(step)).seconds for step in steps])
            kept = steps["seconds"] <= HICCUP * times
            work += float(times[kept].sum())
            spent += float((steps["seconds"] - beside)[kept].sum())
            shared += float(beside[kept].sum())
            count += int(kept.sum())
    if count < FEWEST or work <= spent:
        return None
    return max(0.0, shared / (work - spent) - 1)


def _fewest(feature: str, role: str, steps: int) -> float:
    foreign = _FOREIGN[role]
    return max(FEWEST, _FOREIGN_SHARE * steps) if foreign and feature.startswith(foreign) else FEWEST


def _scaled(runs: Sequence[Measured], base: DeviceProfile) -> tuple[AIConfigurator, str]:
    from context_research.engines.simulated.step_time.aiconfigurator import AIConfiguratorStepTime

    assert isinstance(base.step_time, AIConfigurator)
    raw = base.step_time.model_copy(update={"scale": 1.0, "overhead_s": 0.0})
    modelled, measured = [], []
    for run in runs:
        for engine, steps in run.steps:
            estimates = AIConfiguratorStepTime(raw, run.model, len(engine.devices), f"device profile {base.name}")
            modelled += [estimates.of(_batch(step)).seconds for step in steps]
            measured += steps["seconds"].tolist()
    if len(measured) < FEWEST:
        raise UsageProblem(f"run {runs[0].run_id}: {len(measured)} steps, a fit needs {FEWEST}")
    fitted = fit(np.column_stack([modelled, np.ones(len(modelled))]), np.array(measured))
    scale, overhead = map(float, fitted.coefficients)
    if scale <= 0:
        raise UsageProblem(
            f"the steps of run {runs[0].run_id} do not grow with aiconfigurator's: calibrate without a base"
        )
    ids = tuple(run.run_id for run in runs)
    fitted_times = raw.model_copy(update={"scale": scale, "overhead_s": overhead, "calibrated": ids})
    kept = int(fitted.kept.sum())
    return fitted_times, f"aiconfigurator-core, scale and overhead fitted on {kept} steps: {_told(fitted)}"


def _batch(step: Any) -> Batch:
    return Batch(*(int(step[name]) for name in Batch.__dataclass_fields__))


def _link(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Link, str]:
    """Of reads with nothing else in flight: seconds by bytes. How many descriptors a read has grows with its bytes at
    one block size, so what is dearer than the base's copy is put down to them, and to the bytes without a base."""
    read = [
        (one.handoff_finished - one.handoff_started, run, one.prompt_tokens)
        for run in runs
        for one in run.requests
        if one.handoff_started is not None and one.handoff_finished is not None
    ]
    if not read:
        if base is None:
            raise UsageProblem(
                "no run among these handed KV over with one request in flight: add a disaggregated one, or take the "
                "link from a profile (--device-profile)"
            )
        return base.link, _from_base(base, "link")
    seconds = np.array([taken for taken, _, _ in read])
    tokens = np.array([-(-prompt // run.block_tokens) * run.block_tokens for _, run, prompt in read], dtype=float)
    fitted, (latency, by_token) = _line(tokens, seconds)
    model, block = read[0][1].model, read[0][1].block_tokens
    per_token = model.kv_bytes_per_token
    told = f"{len(read)} KV reads with one request in flight, block size {block}: {_told(fitted)}"
    if base is not None and np.ptp(tokens) == 0:
        size = int(tokens[0])
        by_base = base.link.seconds(
            size * per_token, descriptors(model, size, block), same_device=_on_one_device(read[0][1])
        )
        factor = latency / by_base
        costs = {"latency_s": factor, "descriptor_s": factor, "bandwidth": 1 / factor}
        if base.link.same_device_bandwidth is not None:
            costs["same_device_bandwidth"] = 1 / factor
        return _times(base.link, costs), _of_one_size(told, factor, base, "link")
    if base is not None and by_token > (copy := per_token / base.link.bandwidth_of(_on_one_device(read[0][1]))):
        dearer = (by_token - copy) * block / descriptors(model, block, block)
        link = base.link.model_copy(update={"latency_s": latency, "descriptor_s": dearer})
        return link, f"{told}; the bandwidth is from {_from_base(base, 'link')}"
    if by_token <= 0:
        # No slope to be seen: all of it is latency, and a bandwidth is still needed.
        by_token = latency / tokens.max()
    between = not all(
        has_progress_thread(run.settings.serving.handoff, run.settings.device)
        for _, run, _ in read
        if run.settings.serving.handoff
    )
    link = Link(latency_s=latency, bandwidth=per_token / by_token, between_steps=between)
    return link, f"{told}; the descriptors' cost is in the bandwidth"


def _on_one_device(run: Measured) -> bool:
    engines = [set(engine.devices) for engine, _ in run.steps]
    return run.settings.device == "cuda" and bool(set.intersection(*engines))


def _client(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Client, str]:
    alone = [one for run in runs for one in run.requests]
    submit = [(one.prompt_tokens, one.prefill_queued - one.sent) for one in alone if one.prefill_queued]
    ends = [(one.token_times[0], one.decode_first_token or one.prefill_finished) for one in alone]
    deliver = [(0.0, float(client - engine)) for client, engine in ends if engine is not None]
    if min(len(submit), len(deliver)) < FEWEST:
        if base is None:
            return Client(), "not measured (no case with one request in flight): taken as nothing"
        return base.client, _from_base(base, "client")
    # A clock's last digit may be all there is between two moments.
    tokens, waits = np.array(submit, dtype=float).T
    fitted, (constant, by_token) = _line(tokens, np.maximum(waits, 1e-7))
    none, delays = np.array(deliver).T
    _, (delivered, _) = _line(none, np.maximum(delays, 1e-7))
    told = f"{len(submit)} requests alone in flight, submit: {_told(fitted)}"
    if base is not None and np.ptp(tokens) == 0 and (by_base := base.client.to_engine_s(tokens[0])):
        factor = constant / by_base
        client = _times(base.client, {"submit_s": factor, "submit_token_s": factor})
        return client.model_copy(update={"deliver_s": delivered}), _of_one_size(told, factor, base, "client")
    return Client(submit_s=constant, submit_token_s=by_token, deliver_s=delivered), told


def _times(part: Part, factors: Mapping[str, float]) -> Part:
    """`part` with these of its numbers multiplied."""
    return part.model_copy(update={name: getattr(part, name) * factor for name, factor in factors.items()})


def _of_one_size(told: str, factor: float, base: DeviceProfile, what: str) -> str:
    """Of one size alone no slope can be told: the base's line, all of it dearer or cheaper."""
    return f"{told}; all of one prompt length, so {factor:.3g} × {_from_base(base, what)}"


def _line(of: Array, seconds: Array) -> tuple[Fitted, tuple[float, float]]:
    """(constant, slope), both ≥ 0, of seconds over `of`. Of one value alone only the constant can be told."""
    slope = of if len(np.unique(of)) > 1 else np.zeros_like(of)
    fitted = fit(np.column_stack([np.ones_like(of), slope]), seconds)
    return fitted, (float(fitted.coefficients[0]), float(fitted.coefficients[1]))


def _from_base(base: DeviceProfile, what: str) -> str:
    return f"device profile {base.name}: {base.provenance.get(what, 'not said')}"


def _told(fitted: Fitted) -> str:
    r = fitted.residuals
    return f"residuals p5/p50/p95 {r['p5']:+.1%} / {r['p50']:+.1%} / {r['p95']:+.1%}, mean {r['mean_error']:+.1%}"


def table(profile: DeviceProfile, echo: Callable[[str], None]) -> None:
    """How well a calibrated profile fits, a line for each fit."""
    if isinstance(profile.step_time, Linear):
        for one in profile.step_time.fits:
            r = one.residuals
            shares = ", ".join(f"{name} {r[name]:+.1%}" for name in r)
            echo(f"{one.model} {one.dtype}, {one.role} × {one.devices}: {one.steps} steps; {shares}")
    for what in ("step_time", "link", "client"):
        echo(f"{what}: {profile.provenance[what]}")
