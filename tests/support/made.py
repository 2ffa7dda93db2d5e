"""Hand-made inputs for the unit tests: settings, models, timelines, and artifacts that fit their schema."""

import copy
import functools
import time

from context_research.measure.metrics import Repeat
from context_research.models import hub
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.run import new_metadata
from context_research.request import Timeline
from context_research.settings import sources
from context_research.settings.schema import ModelSettings
from context_research.settings.sources import Layer


def resolved(serving="aggregated", device="cpu", **values):
    """E0 on `device`; `model__weights="dummy"` sets model.weights."""
    given = {key.replace("__", "."): value for key, value in values.items()}
    layer = Layer("test", {"serving": serving, "device": device, "seed": 0} | given)
    return sources.resolve("e0", [layer], "cpu", "unit test")


def chosen(serving="aggregated", device="cpu", **values):
    return resolved(serving, device, **values).settings


def model(name="tiny-qwen3", weights="seeded", **values):
    return hub.resolve(ModelSettings(name=name, weights=weights, **values))


def timeline(times=(), *, asked=None, scheduled=0.0, **values):
    """A request whose tokens came at `times`; complete unless `asked` says otherwise."""
    times = list(times)
    base = {"request": "r", "prompt_sha256": "0", "repeat": 0, "sent": scheduled, "prompt_tokens": 8}
    given = base | {"output_tokens_asked": len(times) if asked is None else asked} | values
    return Timeline(scheduled=scheduled, token_times=times, **({"token_ids": list(range(len(times)))} | given))


def two_slots(**values):
    """Two slots half a second apart, 2 s and two tokens a request: one a second. Three end in the window of 2.5 s."""
    ramp, measured, drain = (
        [timeline([start + 1, end], scheduled=start) for start, end in spans]
        for spans in (((0, 2), (0, 2.5)), ((2, 4), (2.5, 4.5)), ((4, 6),))
    )
    return Repeat(2, 4.5, measured, [*ramp, *measured, *drain], **values)


def metadata(run_id="r1", **values):
    """A schema-true run_metadata.json."""
    return copy.deepcopy(_metadata()) | {"run_id": run_id} | values


@functools.cache
def _metadata():
    return new_metadata(RunFiles(None, "r1"), resolved(), model(), ["pytest", "benchmarks/e0"])


def summary(run_id="r1", cases=(), **values):
    """A schema-true e0_summary.json."""
    shared = ("schema_version", "status", "experiment", "backend", "device", "seed", "serving", "model")
    return {key: metadata()[key] for key in shared} | {"run_id": run_id, "cases": list(cases)} | values


def case(name="p64-c1", status="passed", **values):
    prompt, _, level = name.removeprefix("p").partition("-c")
    return {
        "name": name,
        "params": {"prompt_tokens": int(prompt), "concurrency": int(level)},
        "status": status,
        "requests": {"asked": 2, "finished": 2 if status == "passed" else 1},
        "tokens": {"prompt": 128, "output": 8, "prompt_computed_on_decode": None, "prompt_external": 0},
        "handoff": {"connector": None, "transfers": 0, "failed": 0, "bytes": 0},
        "metrics": {"ttft": metric(mean=0.25)},
        "waterfall": {},
        "validity": [{"check": "complete", "status": "pass", "evidence": "2 of 2 requests"}],
    } | values


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
    store.write(files.metadata, "run_metadata", metadata(run_id, **values))
    shared = {key: values[key] for key in ("status", "device") if key in values}
    store.write(files.summary("e0"), "summary", summary(run_id, cases, **shared))
    return files


def until(condition, seconds=5.0):
    """Wait for something outside this process; False if it did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
