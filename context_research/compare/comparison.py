"""Which runs may be compared, and the pairs of values that a comparison rests on."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from context_research.backends.registry import named
from context_research.compare import observations, same_requests
from context_research.compare.observations import Arm
from context_research.compare.statistics import Pairs
from context_research.errors import UsageProblem
from context_research.records import running, store
from context_research.records import summary as summaries
from context_research.records.ab import AbRecord, PlanRecord, SessionRecord
from context_research.records.case import CaseRecord, MetricRecord
from context_research.records.files import AbFiles, RunFiles, report_of
from context_research.records.run import RunRecord
from context_research.records.summary import SummaryRecord
from context_research.records.verdict import Unit
from context_research.serving import shape
from context_research.settings.workload import Workload

TWO = {"baseline", "candidate"}
"""Names of arms that nobody named: they are called by what they serve."""
Figures = Mapping[str, MetricRecord]
"""Metric -> its summary, as in a case's `metrics`."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that counts: completed, no check failed."""

    files: RunFiles
    metadata: RunRecord
    summary: SummaryRecord

    @property
    def cases(self) -> dict[str, CaseRecord]:
        return {case.name: case for case in self.summary.cases}

    @property
    def figures(self) -> dict[str, Figures]:
        """Every case's metrics, and the run's capacities, which are no single case's, under what they are within."""
        return {name: case.metrics for name, case in self.cases.items()} | self.capacities

    @property
    def capacities(self) -> dict[str, Figures]:
        """Each with the name of what it is within where a case's would be."""
        return {each.name: {"capacity": each.metric} for each in self.summary.capacities}


@dataclass(frozen=True, slots=True)
class Side:
    """One arm: its runs, and what each of its units measured. Unit i of every side had the same requests.

    `arm` is its name, `label` what it is called wherever its figures are shown.
    """

    arm: str
    label: str
    runs: tuple[Run, ...]
    units: tuple[Mapping[str, Figures], ...]
    per_repeat: bool

    def observed(self) -> Arm:
        """Every request. Raises UsageProblem: a requests.jsonl is missing or corrupt."""
        found = [observations.read(run.files) for run in self.runs]
        axes = {name: case.axes for run in self.runs for name, case in run.cases.items()}
        measured = named(self.runs[0].metadata.backend).measured
        units = observations.by_repeat(found[0]) if self.per_repeat else tuple(found)
        return Arm(
            self.label,
            units,
            axes,
            frozenset(self.overloaded),
            self.arm,
            measured,
            tuple(run.summary.capacities for run in self.runs),
        )

    @property
    def overloaded(self) -> dict[str, list[str]]:
        """Case -> the runs in which it was."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            for name, case in run.cases.items():
                if case.overloaded:
                    found.setdefault(name, []).append(run.files.run_id)
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sides that may be compared, each with the first.

    `allowed`: what differs although it matters, as the user allowed.
    """

    name: str
    unit: Unit
    sides: tuple[Side, ...]
    report: Path
    allowed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    same_arms: bool = False
    """An A/A: what differs between its sides is noise."""
    unproven: tuple[str, ...] = ()
    """Runs that have kept no hash of what was sent: that the arms had the same is not proven."""
    planned: int | None = None
    """The most pairs that an A/B was to have; a look before its end decides nothing for good."""
    looks: tuple[int, ...] = ()
    """Numbers of pairs after which it could have been stopped."""
    ended: bool = True
    """Whether it is known to have come to its end: one that was killed at a look may have had to go on."""

    @property
    def baseline(self) -> Side:
        return self.sides[0]

    @property
    def candidates(self) -> tuple[Side, ...]:
        return self.sides[1:]

    @property
    def cases(self) -> list[CaseRecord]:
        """Every case of every run, of all sides."""
        return [case for side in self.sides for run in side.runs for case in run.cases.values()]

    @property
    def final(self) -> bool:
        """Whether it has come to its end: all planned pairs, or one of its looks."""
        done = len(self.baseline.units)
        return self.planned is None or done >= self.planned or (self.ended and done in self.looks)

    @property
    def metrics(self) -> list[str]:
        """Every metric that any unit has a value of, or says why it has none."""
        every = (item for _, figures in self._figures() for item in figures.items())
        return list(dict.fromkeys(name for name, metric in every if metric.count or metric.missing))

    def pairs(self, metric: str, statistic: str | None = None) -> list[Pairs]:
        """One metric's pairs, side by side and case by case; `statistic` by default the metric's own."""
        found = []
        cases = dict.fromkeys(case for case, _ in self._figures())
        for side in self.candidates:
            for case in cases:
                own = next((f[metric] for name, f in self._figures() if name == case and metric in f), None)
                if own is None:
                    continue
                which = statistic or own.statistic
                before, after = (
                    tuple(f[metric].value(which) if metric in (f := unit.get(case, {})) else None for unit in one.units)
                    for one in (self.baseline, side)
                )
                found.append(Pairs(case, metric, which, own.unit, own.lower_is_better, before, after, side.arm))
        return found

    def _figures(self) -> Iterator[tuple[str, Figures]]:
        for side in self.sides:
            for unit in side.units:
                yield from unit.items()


def load(files: RunFiles) -> Run:
    """A run that counts. Raises UsageProblem: not completed, a check failed (even if allowed), no artifact."""
    metadata = running.read(files)
    if metadata.status != "completed":
        why = f" ({metadata.reason})" if metadata.reason else ""
        raise UsageProblem(f"run {files.run_id} is in no comparison: its status is {metadata.status}{why}")
    summary = summaries.read(files, metadata)
    failed = {check.check for case in summary.cases if not case.counts for check in (*case.failed, *case.allowed)}
    if failed:
        raise UsageProblem(f"run {files.run_id} is in no comparison: {', '.join(sorted(failed))} failed")
    return Run(files, metadata, summary)


def of_runs(baseline: Run, candidate: Run, allowed: Collection[str] = ()) -> Comparison:
    """Two runs, repeat by repeat. Raises UsageProblem: they differ in what matters."""
    if baseline.files.folder == candidate.files.folder:
        raise UsageProblem(f"{baseline.files.run_id} is not compared with itself: name two runs")
    differing = check_comparable(baseline, candidate, allowed)
    unproven = check_requests(baseline, candidate, differing)
    sides = tuple(
        Side(arm, label, (run,), _repeats(run), True)
        for arm, (label, run) in zip(("baseline", "candidate"), _labels(baseline, candidate), strict=True)
    )
    counts = [[len(case.repeats) for case in run.cases.values()] for run in (baseline, candidate)]
    if not all(all(each) and each for each in counts) or len({n for each in counts for n in each}) != 1:
        told = " / ".join(
            f"{run.files.run_id}: {each}" for run, each in zip((baseline, candidate), counts, strict=True)
        )
        raise UsageProblem(f"only runs with the same number of repeats in every case can be paired; {told}")
    name = f"{candidate.files.run_id}-vs-{baseline.files.run_id}"
    return Comparison(
        name,
        "repeat",
        sides,
        report_of(candidate.files.outputs, name),
        differing,
        unproven=tuple(unproven),
    )


def other_mode(run: Run) -> Run:
    """The newest run before `run` that counts and serves the same experiment in another mode. Raises UsageProblem."""
    of, found = run.metadata, []
    for path in (run.files.outputs / "runs").glob("*/run_metadata.json"):
        with contextlib.suppress(UsageProblem):  # a broken run beside it is no obstacle
            other = store.read(path, RunRecord)
            same = (other.experiment, other.backend, other.seed) == (of.experiment, of.backend, of.seed)
            fits = same and other.status == "completed" and other.serving.mode != of.serving.mode
            if fits and other.started <= of.started:
                found.append((other.started, path.parent.name))
    if found:
        return load(RunFiles(run.files.outputs, max(found)[1]))
    raise UsageProblem(
        f"no completed run of {of.experiment} in another mode is older than {run.files.run_id}: name two runs"
    )


def of_ab(files: AbFiles) -> Comparison:
    """An A/B, session by session. Raises UsageProblem: no pair is finished, a run of it counts no more."""
    record = store.read(files.record, AbRecord)
    runs: dict[tuple[int, str], Run] = {}
    for session in record.sessions:
        if session.status == "completed" and session.run_id:
            runs[session.pair, session.arm] = load(RunFiles(files.outputs, session.run_id))
        elif run := finished_unrecorded(files.outputs, session):
            runs[session.pair, session.arm] = run
    plan = record.plan
    arms = [plan.against, *(arm for arm in plan.arms if arm != plan.against)]
    whole = sorted(pair for pair in {pair for pair, _ in runs} if all((pair, arm) in runs for arm in arms))
    if not whole:
        raise UsageProblem(f"A/B {files.ab_id} has no finished pair yet: run the same `ab` command again to go on")
    for pair in whole:
        seeds = [runs[pair, arm].metadata.seed for arm in arms]
        if len(set(seeds)) > 1:
            raise UsageProblem(
                f"A/B {files.ab_id}: pair {pair + 1} has more than one seed, {', '.join(map(str, seeds))}"
            )
    differing: dict[str, tuple[Any, Any]] = {}
    for run in runs.values():
        differing |= check_comparable(runs[whole[0], arms[0]], run, [*plan.allow_different, "seed"])
    differing.pop("seed", None)
    unproven: dict[str, None] = {}
    for pair, arm in product(whole, arms[1:]):
        unproven |= dict.fromkeys(check_requests(runs[pair, arms[0]], runs[pair, arm], differing))
    sides = []
    for arm in arms:
        own = tuple(runs[pair, arm] for pair in whole)
        units = tuple(run.figures for run in own)
        sides.append(Side(arm, _label(plan, arm, own[0]), own, units, False))
    first = plan.settings.get(arms[0])
    same = all(plan.settings.get(arm) == first for arm in arms)
    return Comparison(
        files.ab_id,
        "session",
        tuple(sides),
        files.report,
        differing,
        same,
        tuple(unproven),
        plan.pairs,
        plan.looks,
        record.status == "completed",
    )


def _label(plan: PlanRecord, arm: str, run: Run) -> str:
    """What it serves, ``disaggregated (1P1D ×2)``; an arm that has a name of the user's by that: ``split (1P1D ×2)``.

    Arms of the same text have theirs beside it; an arm that is called by its engines is not told of twice, ``1P1D ×2``.
    """
    text = plan.arms[arm]
    if set(plan.arms) != TWO:
        text = arm
    elif list(plan.arms.values()).count(text) > 1:
        text = f"{text}, {arm}"
    engines = shape.of_run(run.metadata)
    return engines if engines.split()[0] == text else f"{text} ({engines})"


def finished_unrecorded(outputs: Path, session: SessionRecord) -> Run | None:
    """The completed run of a session still marked `running` in ab.json, or None."""
    if session.status == "running" and session.run_id:
        with contextlib.suppress(UsageProblem):
            run = load(RunFiles(outputs, session.run_id))
            return run if run.metadata.exit_status == 0 else None
    return None


def check_comparable(baseline: Run, candidate: Run, allowed: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """What differs and matters, all of it allowed. Raises UsageProblem, naming every difference that is not."""
    for what, always in (("experiment", "different experiments"), ("backend", "runs of different backends")):
        if (one := getattr(baseline.metadata, what)) != (other := getattr(candidate.metadata, what)):
            raise UsageProblem(
                f"{always} are never compared: {baseline.files.run_id} is {one}, {candidate.files.run_id} {other}"
            )
    names = f"{baseline.files.run_id} and {candidate.files.run_id}"
    return check_same(names, facts(baseline), facts(candidate), allowed, ALLOW)


def check_requests(baseline: Run, candidate: Run, allowed: Collection[str] = ()) -> list[str]:
    """Those of the two that can't show what they were sent. Raises UsageProblem: it was not the same."""
    return same_requests.check((baseline.files, baseline.summary), (candidate.files, candidate.summary), allowed)


def check_same(
    names: str, before: Mapping[str, Any], after: Mapping[str, Any], allowed: Collection[str], cure: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The differences between two sides' facts, all of them allowed. Raises UsageProblem, naming those that are not."""
    if unknown := sorted(set(allowed) - {*before, *after, *FROM_RUNS}):
        raise UsageProblem(f"--allow-different {unknown[0]}: unknown; one of {', '.join((*before, *FROM_RUNS))}")
    every = dict.fromkeys((*before, *after))
    differing = {key: (before.get(key), after.get(key)) for key in every if before.get(key) != after.get(key)}
    if refused := {key: values for key, values in differing.items() if key not in allowed}:
        told = "; ".join(f"{key}: {one} / {other}" for key, (one, other) in refused.items())
        raise UsageProblem(f"{names} differ in what matters: {told}" + cure.format(key=next(iter(refused))))
    return differing


ALLOW = " (--allow-different {key} compares them all the same)"
"""How the command line allows a difference; the gate does not."""
FROM_RUNS = (
    *("model.revision", "model.hash", "hardware.gpus", "hardware.cpu", "hardware.driver", "hardware.devices"),
    *("vllm", "engine.dtype", "engine.quantization", "engine.cache_dtype", "engine.block_size", "cases", "seed"),
    "not_provable",
)
"""The facts that only a run knows."""


_NEWER = Workload.model_construct().model_dump(
    mode="json", include={"arrivals", "rate", "cv", "warmup_s", "window_s", "classes", "trace", "length_spread"}
)
"""What loads were before they could be anything else."""


def settled(settings: Mapping[str, Any], whose: str = "this plan") -> dict[str, Any]:
    """The facts that are in the settings, before anything has run. Raises UsageProblem: they are not ours."""
    try:
        workload = _NEWER | settings["workload"]  # older runs could be of no other kind
        workload["classes"] = {name: _class(each) for name, each in workload["classes"].items()}
        return {
            **{f"model.{key}": settings["model"][key] for key in ("name", "weights", "dtype")},
            "device": settings["device"],
            **{f"engine.{key}": settings["engine"][key] for key in ("gpu_memory_utilization", "kv_cache_memory_bytes")},
            **{f"workload.{key}": value for key, value in workload.items() if key != "request_timeout_s"},
            "slo": _slos(settings),
            "axes": settings.get("axes", {}),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageProblem(f"the settings of {whose} are corrupt or from another version: {error}") from None


def _slos(settings: Mapping[str, Any]) -> Any:
    """The limits, and a share that is not the usual one; a list where there are several."""
    every = [_slo(slo) for slo in (settings.get("slo", {}), *settings.get("more_slos", ()))]
    return every[0] if len(every) == 1 else every


def _slo(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None and (name, value) != ("attainment", 0.9)}


def _class(given: Mapping[str, Any]) -> dict[str, Any]:
    return dict(given) | ({"slo": _slo(given["slo"])} if given.get("slo") else {})


def facts(run: Run) -> dict[str, Any]:
    """What two runs must share for their difference to be the arms': model, machine, software, resources, requests.

    How an engine uses the resources (chunk size, CUDA graphs, engines and their roles) is what arms may differ in.
    """
    record = run.metadata
    return settled(record.settings, f"run {run.files.run_id}") | {
        **{f"model.{key}": getattr(record.model, key) for key in ("name", "weights", "revision", "hash")},
        "device": record.device,
        **named(record.backend).labels.facts(record),
        "vllm": record.environment_manifest.vllm,
        "engine.dtype": _resolved(record, "model", "dtype"),
        "engine.quantization": _resolved(record, "model", "quantization"),
        "engine.cache_dtype": _resolved(record, "cache", "cache_dtype"),
        "engine.block_size": _resolved(record, "cache", "block_size"),
        "cases": sorted(run.cases),
        "seed": record.seed,
        # Checks whose evidence can't be had: proof of another kind is no proof against the other side's.
        "not_provable": sorted({check.check for case in run.summary.cases for check in case.not_provable}),
    }


def _resolved(record: RunRecord, group: str, key: str) -> Any:
    """What vLLM made of a setting: the engines' common value, or all of them."""
    found: list[Any] = []
    for engine in record.engines:
        if (value := engine.resolved(group, key)) not in found:
            found.append(value)
    return found[0] if len(found) == 1 else sorted(found, key=str)


def _repeats(run: Run) -> tuple[dict[str, Figures], ...]:
    units: list[dict[str, Figures]] = []
    for name, case in run.cases.items():
        for number, repeat in enumerate(case.repeats):
            if not repeat.metrics:
                raise UsageProblem(f"run {run.files.run_id} is from before repeats were compared: run it again")
            if number == len(units):
                units.append({})
            units[number][name] = repeat.metrics
    if len(units) == 1:  # what is no single case's is the whole run's
        units[0] |= run.capacities
    return tuple(units)


def _labels(baseline: Run, candidate: Run) -> list[tuple[str, Run]]:
    runs = {"baseline": baseline.metadata, "candidate": candidate.metadata}
    told = {which: f"{run.serving.mode} ({shape.of_run(run)})" for which, run in runs.items()}
    if len(set(told.values())) == 1:
        told = {which: f"{run.serving.mode}, {which} ({shape.of_run(run)})" for which, run in runs.items()}
    return list(zip(told.values(), (baseline, candidate), strict=True))
