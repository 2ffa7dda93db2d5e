"""How far the simulated backend is off: real runs against their own requests, simulated."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from context_research.backends.registry import named
from context_research.compare import comparison, observations
from context_research.compare.comparison import Comparison, Run
from context_research.compare.observations import Arm, Cases
from context_research.engines.simulated import profiles
from context_research.engines.simulated.profiles import DeviceProfile, Linear
from context_research.errors import UsageProblem
from context_research.fidelity import calibrate, calibration_data, direction
from context_research.fidelity.direction import JUDGED
from context_research.fidelity.replay import replay
from context_research.measure import metrics, waterfall
from context_research.records.case import Distribution
from context_research.records.fidelity import FigureRecord, PartRecord, SignRecord
from context_research.records.files import AbFiles, RunFiles
from context_research.records.run import StepTimesRecord

BARS = {("tpot", "p50"): 0.05, ("ttft", "p50"): 0.10, ("tpot", "p90"): 0.15, ("ttft", "p90"): 0.15}
"""(metric, statistic) -> the largest error, either way, that passes. Set for held-out cases on two CPU cores."""
_NOT_THE_ARM_S = ("seed", "outputs", "allow_invalid", "slo", "backend", "device_profile")
"""Settings in which runs that are pooled may differ."""
_NOT_A_CASE_S = ("seed", "cases", "slo", "workload.repeats", "workload.prompt_lengths", "workload.concurrency")
"""Facts in which the runs of two modes may differ, and the cases that both have be compared."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The runs of one arm: alike but for their seeds. Both arms' units are the runs, in their order."""

    label: str
    runs: tuple[Run, ...]
    real: Arm
    simulated: Arm
    steps: int
    extrapolated: int
    step_times: tuple[StepTimesRecord, ...]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Real runs, their requests simulated, and how far apart the two are."""

    name: str
    outputs: Path
    profile: DeviceProfile
    in_sample: bool
    """The profile was fitted on these very runs, just now."""
    fitted_on: tuple[str, ...]
    """Run ids that the profile's step times were fitted on."""
    pools: tuple[Pool, ...]
    signs: tuple[SignRecord, ...]
    unsigned: str
    """Why there are no signs, or nothing."""
    figures: tuple[FigureRecord, ...]
    parts: tuple[PartRecord, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for pool in self.pools for run in pool.runs]

    @property
    def seen(self) -> list[str]:
        """The runs that the profile has seen: their errors say how well it fits, not how well it predicts."""
        return [run.files.run_id for run in self.runs if run.files.run_id in self.fitted_on]

    @property
    def missed(self) -> list[FigureRecord]:
        return [figure for figure in self.figures if figure.passed is False]

    @property
    def extrapolated_share(self) -> float:
        steps = sum(pool.steps for pool in self.pools)
        return sum(pool.extrapolated for pool in self.pools) / steps if steps else 0.0


def of_runs(files: Sequence[RunFiles], profile: str | None) -> Fidelity:
    """Real runs; those that differ in their seed alone are pooled. Raises UsageProblem naming the run that can't be."""
    calibration_data.check_distinct(files)
    groups: dict[str, list[Run]] = {}
    for run in map(_load, files):
        groups.setdefault(_arm_key(run), []).append(run)
    modes = [runs[0].metadata.serving.mode for runs in groups.values()]
    labels = [
        mode if modes.count(mode) == 1 else f"{mode} {modes[: number + 1].count(mode)}"
        for number, mode in enumerate(modes)
    ]
    return _compared(dict(zip(labels, groups.values(), strict=True)), profile, [each.run_id for each in files], None)


def of_ab(files: AbFiles, profile: str | None) -> Fidelity:
    """An A/B: each arm's sessions together, so that what differs from start to start averages out."""
    compared = comparison.of_ab(files)
    arms = {}
    for side in compared.sides:
        for run in side.runs:
            _refuse_simulated(run)
        if len({_arm_key(run) for run in side.runs}) > 1:
            raise UsageProblem(f"A/B {files.ab_id}: the sessions of {side.label} differ in more than their seeds")
        arms[side.label] = list(side.runs)
    return _compared(arms, profile, [files.ab_id], (files, compared))


def _load(files: RunFiles) -> Run:
    run = comparison.load(files)
    _refuse_simulated(run)
    return run


def _refuse_simulated(run: Run) -> None:
    if not named(backend := run.metadata.backend).measured:
        raise UsageProblem(f"run {run.files.run_id} is {backend}: a simulation is held against real runs only")


def _arm_key(run: Run) -> str:
    settings = {key: value for key, value in run.metadata.settings.items() if key not in _NOT_THE_ARM_S}
    facts = {key: value for key, value in comparison.facts(run).items() if key not in ("seed", "slo")}
    return json.dumps([settings, facts], sort_keys=True, default=str)


def _compared(
    arms: Mapping[str, list[Run]],
    named: str | None,
    ids: Sequence[str],
    of: tuple[AbFiles, Comparison] | None,
) -> Fidelity:
    runs = [run for own in arms.values() for run in own]
    with tempfile.TemporaryDirectory(prefix="context-research-fidelity-") as scratch:
        if named is None:
            profile, path = _in_sample(runs), Path(scratch) / "in-sample.yaml"
            calibrate.write(profile, path, "fidelity", force=True)
            device = str(path)
        else:
            profile, device = profiles.load(named), named
        pools = tuple(_pool(label, own, device) for label, own in arms.items())
    signs, why = _signs(pools, of)
    more = "" if len(ids) == 1 else f"-and-{len(ids) - 1}-more"
    return Fidelity(
        name=f"fidelity-{ids[0]}{more}-{profile.name}",
        outputs=runs[0].files.outputs,
        profile=profile,
        in_sample=named is None,
        fitted_on=fitted_on(profile),
        pools=pools,
        signs=tuple(signs),
        unsigned=why,
        figures=tuple(figure for pool in pools for figure in _figures(pool)),
        parts=tuple(part for pool in pools for part in _parts(pool)),
    )


def _in_sample(runs: Sequence[Run]) -> DeviceProfile:
    measured = calibration_data.load([run.files for run in runs])
    try:
        return calibrate.calibrate(measured, None, "in-sample")
    except UsageProblem:
        # Runs of aggregated serving say nothing of a link, which a profile has and they don't use.
        gpus = [gpu.name for gpu in measured[0].machine.gpus]
        if (shipped := profiles.of_machine(measured[0].settings.device, gpus)) is None:
            raise
        return calibrate.calibrate(measured, profiles.load(shipped), "in-sample")


def fitted_on(profile: DeviceProfile) -> tuple[str, ...]:
    """Run ids that the profile's step times were fitted on."""
    steps = profile.step_time
    if isinstance(steps, Linear):
        return tuple(dict.fromkeys(run for fit in steps.fits for run in fit.runs))
    return steps.calibrated


def _pool(label: str, runs: list[Run], profile: str) -> Pool:
    real: list[Cases] = [observations.read(run.files) for run in runs]
    for run, cases in zip(runs, real, strict=True):
        if missing := sorted(set(run.cases) - set(cases)):
            raise UsageProblem(f"{run.files.requests} is corrupt: it has nothing of {', '.join(missing)}")
    again = replay(runs, real, profile)
    return Pool(
        label=label,
        runs=tuple(runs),
        real=Arm(label, tuple(real)),
        simulated=Arm(label, again.cases),
        steps=again.steps,
        extrapolated=again.extrapolated,
        step_times=again.step_times,
    )


def _figures(pool: Pool) -> list[FigureRecord]:
    figures = []
    for case in pool.real.cases:
        for metric in JUDGED:
            real, simulated = (metrics.pooled(metric, arm.repeats(case)) for arm in (pool.real, pool.simulated))
            for statistic in ("p50", "p90"):
                figures.append(_figure(pool.label, case, metric.name, statistic, real, simulated))
    return figures


def _figure(
    arm: str, case: str, metric: str, statistic: str, real: Distribution, simulated: Distribution
) -> FigureRecord:
    bar, one, other = BARS[metric, statistic], real.value(statistic), simulated.value(statistic)
    error = None if one is None or other is None else other / one - 1
    return FigureRecord(
        arm=arm,
        case=case,
        metric=metric,
        statistic=statistic,
        count=real.count,
        simulated_count=simulated.count,
        real=one,
        simulated=other,
        bar=bar,
        error=error,
        passed=None if error is None else abs(error) <= bar,
    )


def _parts(pool: Pool) -> list[PartRecord]:
    parts = []
    for case in pool.real.cases:
        real, simulated = (
            waterfall.summarize(timeline for repeat in arm.repeats(case) for timeline in repeat.timelines)
            for arm in (pool.real, pool.simulated)
        )
        for part in (*waterfall.PARTS, waterfall.UNATTRIBUTED):
            if part in real or part in simulated:
                before, after = (of[part].p50 if part in of else None for of in (real, simulated))
                parts.append(PartRecord(arm=pool.label, case=case, part=part, real=before, simulated=after))
    return parts


def _signs(pools: Sequence[Pool], of: tuple[AbFiles, Comparison] | None) -> tuple[list[SignRecord], str]:
    """The signs, or none and why. Runs are compared aggregated to disaggregated, an A/B baseline to candidate."""
    if of is not None:
        files, compared = of
        if compared.same_arms:
            return [], "an A/A: its arms are alike"
        one, other = pools
        return direction.of_ab(files, compared, (one.real, other.real), (one.simulated, other.simulated)), ""
    signs: list[SignRecord] = []
    by_mode: dict[str, list[Pool]] = {"aggregated": [], "disaggregated": []}
    for pool in pools:
        by_mode[pool.runs[0].metadata.serving.mode].append(pool)
    pairs = [(one, other) for one in by_mode["aggregated"] for other in by_mode["disaggregated"]]
    why = "" if pairs else "runs of one serving mode only"
    for one, other in pairs:
        try:
            comparison.check_comparable(one.runs[0], other.runs[0], _NOT_A_CASE_S)
        except UsageProblem as problem:
            why = str(problem)
            continue
        signs += direction.of_runs((one.real, other.real), (one.simulated, other.simulated))
    return signs, "" if signs else why or "no case in both modes"
