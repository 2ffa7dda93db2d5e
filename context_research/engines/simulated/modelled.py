"""Which settings a simulation follows: what its scheduler and KV cache, which are vLLM's own, make of them.

Any other would be taken without a word, and change nothing, or the batches and not the time that they take.
"""

from __future__ import annotations

from collections.abc import Mapping

from context_research.engines.simulated.profiles import DeviceProfile
from context_research.errors import UsageProblem
from context_research.settings.schema import Handoff, Settings

_SCHEDULER = {
    *("async_scheduling", "enable_chunked_prefill", "max_num_active_seqs", "max_num_scheduled_tokens"),
    *("long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "scheduler_cls"),
    *("scheduler_reserve_full_isl", "watermark", "num_gpu_blocks_override", "disable_hybrid_kv_cache_manager"),
}
"""vLLM's engine arguments that its scheduler and its KV cache manager read."""
_NO_TIME = {
    *("download_dir", "hf_token", "ignore_patterns", "max_parallel_loading_workers", "model_loader_extra_config"),
    *("pt_load_map_location", "safetensors_load_strategy", "trust_remote_code", "use_tqdm_on_load"),
    *("code_revision", "served_model_name", "tokenizer", "tokenizer_mode", "tokenizer_revision"),
    *("generation_config", "override_generation_config", "show_hidden_metrics_for_version"),
}
"""And those that take no time of a request's: loading, names, defaults of a sampling that is always given."""
_AS_IT_IS: Mapping[str, object] = {
    **dict.fromkeys(("pipeline_parallel_size", "data_parallel_size", "decode_context_parallel_size"), 1),
    **dict.fromkeys(("enable_lora", "enable_expert_parallel", "enable_dbo"), False),
    **dict.fromkeys(("speculative_config", "quantization"), None),
    "hf_overrides": {},
    "stream_interval": 1,
    "scheduling_policy": "fcfs",
    "cpu_offload_gb": 0,
}
"""Others, at the value that they have unasked."""


def check(settings: Settings, profile: DeviceProfile) -> None:
    """Refuse what a simulation on this machine would not follow. Raises UsageProblem that names the setting."""
    for name, value in settings.engine.args.items():
        if name not in _SCHEDULER | _NO_TIME and not (name in _AS_IT_IS and value == _AS_IT_IS[name]):
            raise UsageProblem(
                f"engine.args.{name}: not simulated, it would change nothing or the wrong thing; vLLM's scheduler and "
                f"KV cache are real here and follow {', '.join(sorted(_SCHEDULER))}, all else is a model "
                "(docs/simulation.md)"
            )
    if (handoff := settings.serving.handoff) is not None:
        unasked = Handoff()
        for name in ("backends", "extra_config", "progress_thread"):
            if getattr(handoff, name) != getattr(unasked, name):
                raise UsageProblem(
                    f"serving.handoff.{name}: not simulated, a KV read takes what the device profile's link says "
                    "(docs/simulation.md)"
                )
    if settings.engine.enforce_eager and profile.device == "cuda" and not profile.calibrated:
        raise UsageProblem(
            f"engine.enforce_eager: not simulated, the step times of device profile {profile.name} are of CUDA graphs "
            "(docs/simulation.md)"
        )
