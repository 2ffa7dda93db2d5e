"""How many bytes of KV cache: what an engine's pool holds, what a load takes, what a declared cache state keeps."""

from __future__ import annotations

from dataclasses import dataclass

from context_research.errors import UsageProblem
from context_research.hardware.placement import Placement
from context_research.models.model import Model
from context_research.settings.schema import Settings

ACTIVATIONS = 3 << 30
"""Bytes that vLLM keeps on a GPU beside weights and KV: activations, CUDA graphs, context (seen: 1.5-3 GiB)."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a case asks of the KV cache at its busiest: `concurrency` requests of so many tokens."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int
    of: str = ""
    """Which of a case's requests these are, where that is not all of them: ``class chat``."""

    def __str__(self) -> str:
        of = f" of {self.of}" if self.of else ""
        return f"{self.concurrency} × ({self.prompt_tokens} prompt + {self.output_tokens} output tokens){of}"


def load_bytes(settings: Settings, model: Model, placement: Placement, load: Load) -> int:
    """KV bytes that a load takes on one engine, in whole blocks. A prefill engine makes one token per request."""
    tokens = load.prompt_tokens + (1 if placement.spec.role == "prefill" else load.output_tokens)
    block = block_tokens(settings)
    return load.concurrency * -(-tokens // block) * block * model.kv_bytes_per_token


def cached_tokens(settings: Settings, prompt_tokens: int) -> int:
    """Prompt tokens that the declared cache state serves to a request: whole blocks, and never the last token."""
    block = block_tokens(settings)
    return min(int(prompt_tokens * settings.workload.primed_share), prompt_tokens - 1) // block * block


def primed_bytes(settings: Settings, model: Model, placement: Placement, load: Load, requests: int) -> int:
    """KV bytes of what the declared cache state keeps of a pass of `requests`, on the engine that computes them."""
    if placement.spec.role == "decode" or not settings.workload.primed_share:
        return 0
    block = block_tokens(settings)
    # What earlier requests of the pass leave in the cache takes room from the prompts of later ones.
    tokens = int(load.prompt_tokens * settings.workload.primed_share) + load.output_tokens
    return requests * -(-tokens // block) * block * model.kv_bytes_per_token


def block_tokens(settings: Settings) -> int:
    """Tokens of one KV block: as given, else vLLM's default for the device."""
    return settings.engine.block_size or (128 if settings.device == "cpu" else 16)


def pool_bytes(settings: Settings, model: Model, placement: Placement) -> int:
    """KV bytes that one engine will have: its share of the configured pool, or of what weights leave on its GPUs.

    Raises UsageProblem where neither is known.
    """
    if (total := settings.engine.kv_cache_memory_bytes) is not None:
        cards = len(placement.devices) if settings.device == "cuda" else 1
        return int(total * placement.memory_share) * cards
    if not placement.memory_bytes:
        raise UsageProblem("device cuda needs an NVIDIA driver, and none answers here: use --device=cpu")
    if settings.device == "cpu":
        # vLLM's own default takes half the machine's memory for each engine: two of them would not fit.
        return int(placement.memory_bytes[0] * 0.4 * placement.memory_share)
    usable = sum(
        int(memory * settings.engine.gpu_memory_utilization * placement.memory_share) - ACTIVATIONS
        for memory in placement.memory_bytes
    )
    return max(0, usable - model.weight_bytes)
