"""Hand-made records of runs, cases and engines that fit their schemas. `made_runs` has whole runs on disk."""

import copy
import functools

from context_research.hardware.manifest import environment_manifest
from context_research.records.case import CaseRecord
from context_research.records.files import RunFiles
from context_research.records.run import ManifestRecord, RunRecord, new_run
from tests.support.artifacts import keep
from tests.support.settings import resolve_model, resolved

MACHINE = {
    "cpu": {"model": "A CPU", "cores": [0, 1], "memory_bytes": 8 << 30},
    "gpus": [],
    "driver": None,
    "topology": {},
}
GPUS = MACHINE | {"gpus": [{"id": "0", "name": "NVIDIA H200", "memory_bytes": 150754820096}]}
"""What environment_manifest has of a machine with two cores, and of one with a GPU beside them."""


def metadata(run_id="r1", **values):
    """A schema-true run_metadata.json."""
    return copy.deepcopy(_metadata()) | {"run_id": run_id} | values


def run_record(run_id="r1", **values):
    return RunRecord.model_validate(metadata(run_id, **values))


@functools.cache
def _metadata():
    manifest = ManifestRecord.model_validate(environment_manifest())
    run = new_run("r1", resolved(), resolve_model(), ["pytest", "benchmarks/e0"], manifest)
    return run.model_dump(mode="json", by_alias=True)


def summary(run_id="r1", cases=(), **values):
    """A schema-true e0_summary.json."""
    shared = ("schema_version", "status", "experiment", "backend", "device", "seed", "serving", "model")
    known = metadata()
    return {key: known[key] for key in shared} | {"run_id": run_id, "cases": list(cases)} | values


def case(name="p64-c1", status="passed", **values):
    prompt, _, level = name.removeprefix("p").partition("-c")
    return {
        "name": name,
        "axes": {"prompt_tokens": int(prompt), "concurrency": int(level)},
        "status": status,
        "requests": {"asked": 2, "finished": 2 if status == "passed" else 1},
        "tokens": {"prompt": 128, "output": 8, "prompt_computed_on_decode": None, "prompt_external": 0},
        "handoff": {"connector": None, "transfers": 0, "failed": 0, "bytes": 0},
        "metrics": {"ttft": metric(mean=0.25)},
        "waterfall": {},
        "validity": [{"check": "complete", "status": "pass", "evidence": "2 of 2 requests"}],
    } | values


def case_record(name="p64-c1", status="passed", **values):
    return CaseRecord.model_validate(case(name, status, **values))


def metric(unit="s", count=2, mean=None, **percentiles):
    return {
        "unit": unit,
        "count": count,
        "mean": mean,
        "p50": None,
        "p90": None,
        "p95": None,
        "p99": None,
    } | percentiles


def engine(**values):
    return {
        "name": "aggregated",
        "role": "aggregated",
        "devices": [0, 1],
        "vllm_config": {"cache": {"block_size": 128}},
        "kv_pool_bytes": 1 << 29,
        "start_s": 2.5,
    } | values


def on_disk(outputs, run_id="r1", cases=(), **values):
    """A run's folder, written by the writers that real runs use."""
    files = RunFiles(outputs, run_id)
    keep(files.metadata, "run_metadata", metadata(run_id, **values))
    shared = {key: values[key] for key in ("status", "device") if key in values}
    keep(files.summary("e0"), "summary", summary(run_id, cases, **shared))
    return files
