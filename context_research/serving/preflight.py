"""What can be known to be wrong before an engine starts: engines on their devices, lengths, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of
from context_research.errors import UsageProblem
from context_research.hardware.placement import Placement
from context_research.models.capacity import (
    ACTIVATIONS,
    Load,
    block_tokens,
    cached_tokens,
    load_bytes,
    pool_bytes,
    primed_bytes,
)
from context_research.models.model import Model
from context_research.settings.schema import Settings
from context_research.workload.case import Case
from context_research.workload.load import loads, mean_load, pass_length

_GIB = 1 << 30


def check_run(
    settings: Settings,
    cases: Iterable[Case],
    model_of: Callable[[Settings], Model],
    backend_of: Callable[[Settings], Backend] = backend_of,
) -> list[str]:
    """Refuse a run that can't be: its engines, then each case on its own; what can be but hardly is as it is meant.

    Raises UsageProblem, also as `model_of` does.
    """
    check(backend_of(settings), model_of(settings), [])
    told = []
    for case in cases:
        backend, model = backend_of(case.settings), model_of(case.settings)
        check(backend, model, loads(case))
        told += warnings(backend, model, case)
    return told


def check(backend: Backend, model: Model, loads: Iterable[Load]) -> None:
    """Refuse what can't run, on this backend, with these engines, at these loads. Raises UsageProblem."""
    backend.check_engines(model)
    check_fit(backend.settings, model, backend.placements, loads)


def check_fit(settings: Settings, model: Model, placements: Iterable[Placement], loads: Iterable[Load]) -> None:
    """Refuse a case that is longer than the model, or whose KV does not fit in an engine's pool.

    A pool that is too small would not fail: vLLM queues or preempts, and the case would silently measure another
    concurrency than the one it names. Raises UsageProblem.
    """
    pools = [(placement, pool_bytes(settings, model, placement)) for placement in placements]
    if settings.workload.primed_share and not settings.engine.enable_prefix_caching:
        raise UsageProblem("a prefix cache that is off can't be warm (--cache, engine.enable_prefix_caching)")
    for load in loads:
        _check_workload(settings, model, load)
        for placement, pool in pools:
            _check_pool(settings, model, placement, pool, _share(settings, placement, load))
    longest = Load(model.max_length, 0, 1)
    for placement, pool in pools:
        # vLLM does not start where one request of the greatest length would not fit.
        if load_bytes(settings, model, placement, longest) > pool:
            raise UsageProblem(
                f"KV cache too small on engine {placement.spec.name}: vLLM wants room for one request of "
                f"{model.max_length} tokens × {model.kv_bytes_per_token} bytes, the pool is "
                f"{pool / _GIB:.2f} GiB{_taken_off(settings, model)} "
                "(model.max_model_len, engine.kv_cache_memory_bytes, engine.gpu_memory_utilization)"
            )


def warnings(backend: Backend, model: Model, case: Case) -> list[str]:
    """What can run, but hardly as it is meant: a mean load that is over a pool. A line each.

    Nothing is known of an open load beforehand: how much of it is in flight depends on how fast it is served.
    """
    settings, load = backend.settings, mean_load(case)
    if load is None:
        return []
    told = []
    for placement in backend.placements:
        try:
            _check_pool(
                settings, model, placement, pool_bytes(settings, model, placement), _share(settings, placement, load)
            )
        except UsageProblem as problem:
            told.append(f"{case.name}: {problem}: requests will queue or be preempted")
    return told


def _check_workload(settings: Settings, model: Model, load: Load) -> None:
    """Refuse what no pool could make possible."""
    if load.concurrency > (settings.engine.max_num_seqs or load.concurrency):
        raise UsageProblem(
            f"{load.concurrency} requests in flight are over engine.max_num_seqs, {settings.engine.max_num_seqs}"
        )
    length = load.prompt_tokens + load.output_tokens
    if length > model.max_length:
        of = f" ({load.of})" if load.of else ""
        raise UsageProblem(
            f"a prompt of {load.prompt_tokens} + {load.output_tokens} output tokens{of} is over the "
            f"{model.max_length} that {model.settings.name} takes here ({_lengths(settings)}, model.max_model_len)"
        )
    if settings.workload.primed_share and not cached_tokens(settings, load.prompt_tokens):
        raise UsageProblem(
            f"{settings.workload.primed_share:.0%} of {load.prompt_tokens} tokens is no whole block of "
            f"{block_tokens(settings)}: longer prompts, or a smaller engine.block_size (--cache)"
        )


def _share(settings: Settings, placement: Placement, load: Load) -> Load:
    """What one engine has of a load at its busiest.

    Routing to the least loaded bounds it. Taking turns doesn't, nor does anything bound the KV that waits on a prefill
    engine to be read.
    """
    serving, role = settings.serving, placement.spec.role
    if role == "prefill" or serving.routing == "round_robin":
        return load
    alike = sum(spec.role == role for spec in serving.engines)
    return replace(load, concurrency=-(-load.concurrency // alike))


def _check_pool(settings: Settings, model: Model, placement: Placement, pool: int, load: Load) -> None:
    """Refuse a load that does not fit in a pool, less the one block that vLLM keeps for itself (its null block)."""
    need = load_bytes(settings, model, placement, load) + block_tokens(settings) * model.kv_bytes_per_token
    kept = primed_bytes(settings, model, placement, load, pass_length(settings.workload, load.concurrency))
    if need + kept > pool:
        told = f" + {kept / _GIB:.2f} GiB for a pass's prompts in the cache" if kept else ""
        raise UsageProblem(
            f"KV cache too small on engine {placement.spec.name}: {load} × {model.kv_bytes_per_token} bytes = "
            f"{need / _GIB:.2f} GiB{told}, the pool is {pool / _GIB:.2f} GiB{_taken_off(settings, model)} "
            f"({_lengths(settings, '--prompt-lengths, --concurrency')}, engine.kv_cache_memory_bytes, "
            "engine.gpu_memory_utilization)"
        )


def _lengths(settings: Settings, plain: str = "--prompt-lengths, --output-tokens") -> str:
    """What sets the lengths of requests."""
    if settings.workload.trace is not None:
        return "workload.trace.longest_prompt"
    return "workload.classes" if settings.workload.classes else plain


def _taken_off(settings: Settings, model: Model) -> str:
    if settings.device == "cpu" or settings.engine.kv_cache_memory_bytes is not None:
        return ""
    return f" beside {model.weight_bytes / _GIB:.1f} GiB of weights and {ACTIVATIONS / _GIB:.0f} GiB for activations"
