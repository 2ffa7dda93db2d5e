"""B: our loop at one request at a time against vLLM's own `vllm bench latency` at batch size 1.

Each side runs in a fresh process of its own: ``python latency.py ours|vllm SETTINGS_JSON RESULT_FILE``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import aggregated
from context_research.engines.vllm import process_lifetime
from context_research.engines.vllm.engine import VllmEngine, described
from context_research.engines.vllm.environment import changed
from context_research.errors import EngineFailure
from context_research.measure import metrics
from context_research.measure.case import measure
from context_research.models import hub
from context_research.settings.schema import Settings
from context_research.workload.case import point
from quiet import Pairing
from ratios import Bar, Comparison

E2E = Bar(low=0.98, high=1.02)
_VOCABULARY = 10_000
"""vLLM's benchmark draws token ids below this."""
_CHILD_S = 900.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one side's process measured: seconds of each request, and how vLLM resolved its engine's configuration."""

    latencies: list[float]
    config: dict[str, object]


def compare(settings: Settings, pairing: Pairing, iterations: int, folder: Path) -> list[Comparison]:
    """End-to-end p50 of both sides. Raises EngineFailure where the two engines' configurations differ."""
    same = _comparable(settings, iterations)
    results = pairing.run(
        "vLLM's benchmark", lambda _: _in_child("ours", same, folder), lambda _: _in_child("vllm", same, folder)
    )
    for a, b in results:
        if different := {k for k in a.config | b.config if a.config.get(k) != b.config.get(k)}:
            both = ", ".join(f"{k}: {a.config.get(k)} and {b.config.get(k)}" for k in sorted(different))
            raise EngineFailure(f"the engines of ours and of vLLM's benchmark differ: {both}")
    workload = same.workload
    load = f"{workload.prompt_lengths[0]} in, {workload.output_tokens} out, 1 at a time × {workload.requests}"
    ours, other = ([median(side.latencies) for side in sides] for sides in zip(*results, strict=True))
    return [Comparison("e2e p50", load, "s", ours, other, E2E)]


def _comparable(settings: Settings, iterations: int) -> Settings:
    """What vLLM's benchmark fixes, for our side too: temperature 1, one prompt sent again and again, so no caching.

    The scheduler's limits are given, as vLLM's defaults for them depend on who asks (AsyncLLM or `LLM`).
    """
    workload = settings.workload.model_copy(update={"requests": iterations, "temperature": 1.0})
    own, limits = settings.engine, {"max_num_batched_tokens": 8192, "max_num_seqs": 128}
    limits = {name: getattr(own, name) or limit for name, limit in limits.items()}
    engine = own.model_copy(update={"enable_prefix_caching": False, **limits})
    return settings.model_copy(update={"workload": workload, "engine": engine})


def _in_child(side: str, settings: Settings, folder: Path) -> Result:
    """One side's result, from a fresh process that can't outlive this one."""
    result, log = folder / f"{side}.json", folder / f"{side}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, side, settings.model_dump_json(), str(result)]
    with process_lifetime.dies_with_parent() as parent, log.open("w") as stream:
        ended = subprocess.run(
            command, env=os.environ | parent, stdout=stream, stderr=stream, timeout=_CHILD_S, check=False
        )
    if ended.returncode or not result.is_file():
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise EngineFailure(f"{side}: exit code {ended.returncode}\n{tail}")
    return Result(**json.loads(result.read_text()))


def run_ours(settings: Settings, result: Path) -> Result:
    """Our path, as a benchmark's case runs it."""
    model = hub.download(hub.resolve(settings.model))
    topology, engine = aggregated(settings, model, result.with_suffix(".engine.log"))
    case = point(settings, settings.workload.prompt_lengths[0], 1)
    _import_vllm(engine)
    try:
        topology.start()
        measured = measure(case, model, topology, repeats=1)
        if measured.failure:
            raise EngineFailure(measured.failure)
        latencies = [metrics.e2e(timeline) for timeline in measured.repeats[0].timelines]
        return Result(latencies, _flat(topology.describe()[0].vllm_config))
    finally:
        topology.close()


def run_vllm(settings: Settings, result: Path) -> Result:
    """vLLM's benchmark, its code untouched, with the arguments and environment that `VllmEngine` gives its engine."""
    model = hub.download(hub.resolve(settings.model))
    if model.vocabulary < _VOCABULARY:
        raise EngineFailure(f"vLLM's benchmark draws ids below {_VOCABULARY}: the model has {model.vocabulary}")
    _, engine = aggregated(settings, model, result.with_suffix(".engine.log"))
    _import_vllm(engine)
    from vllm.benchmarks import latency
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    workload, out = settings.workload, result.with_suffix(".vllm.json")
    parser = FlexibleArgumentParser()
    latency.add_cli_args(parser)
    args = parser.parse_args(
        [
            "--skip-tokenizer-init",
            "--disable-detokenize",
            "--batch-size=1",
            f"--input-len={workload.prompt_lengths[0]}",
            f"--output-len={workload.output_tokens}",
            f"--num-iters-warmup={workload.warmup_requests}",
            f"--num-iters={workload.requests}",
            f"--output-json={out}",
        ]
    )
    given = {name: value for name, value in engine.arguments().items() if value is not None}
    vars(args).update(given | settings.engine.args)
    with process_lifetime.dies_with_parent() as parent, changed({**engine.environment(), **parent}):
        configs = _placed_alike(on_cpu=settings.device == "cpu")
        latency.main(args)
    return Result(json.loads(out.read_text())["latencies"], _flat(described(configs[-1])))


def _import_vllm(engine: VllmEngine) -> None:
    """Import vLLM in the engine's environment, as `VllmEngine.start` does: OpenMP reads its variables when it loads.

    From then on this process also ends when the one that started it has ended.
    """
    with changed(engine.environment()):
        process_lifetime.register()


def _placed_alike(*, on_cpu: bool) -> list[Any]:
    """The configurations that vLLM resolves from here on; on CPU with `LLM`'s EngineCore where AsyncLLM's always is.

    There, ours runs the executor inside a forked EngineCore process. vLLM allows that executor on CPU only with
    VLLM_ENABLE_V1_MULTIPROCESSING=0, which would also keep `LLM`'s EngineCore in this process: no messages between
    processes, which `LLM` has by default. So the variable is set only while the configuration is made.
    """
    from vllm.engine.arg_utils import EngineArgs

    create, configs = EngineArgs.create_engine_config, list[Any]()

    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        configs.append(create(self, *args, **kwargs))
        if on_cpu:
            os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
        return configs[-1]

    EngineArgs.create_engine_config = create_engine_config
    return configs


def _flat(groups: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """An engine's resolved configuration, one level deep; without the scheduler's class, which records steps in ours.

    That is part of what our measuring costs (recording.py has it by itself).
    """
    config = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    return {name: value for name, value in config.items() if name != "scheduler.scheduler_cls"}


if __name__ == "__main__":
    _side, _settings, _result = sys.argv[1:]
    _run = {"ours": run_ours, "vllm": run_vllm}[_side]
    Path(_result).write_text(json.dumps(asdict(_run(Settings.model_validate_json(_settings), Path(_result)))))
