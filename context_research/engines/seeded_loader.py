"""`load_format="seeded"`: any architecture, from its config.json alone, with weights that make KV faults visible.

vLLM's own `dummy` weights lie within ±1e-3, norms included: the output then hardly depends on the prompt, and a decode
engine that got another request's KV cache would not be noticed. These have a trained model's scale: unit embeddings,
1/√fan-in matrices, norms of one. Queries and keys are normed to two, which sharpens attention enough that one changed
token of a thousand changes the output. Every parameter is drawn from its own name, so that order and device placement
of the parameters don't matter, and on the device itself, so that nothing large is copied.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def register() -> None:
    """Make vLLM know the load format. Safe to call twice."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    class SeededLoader(BaseModelLoader):  # type: ignore[misc] # vLLM's class is untyped here
        def download_model(self, model_config: Any) -> None:
            """Nothing to download."""

        def load_weights(self, model: nn.Module, model_config: Any) -> None:
            fill(model, model_config.seed or 0)

    register_model_loader("seeded")(SeededLoader)


def fill(model: nn.Module, seed: int) -> None:
    """Fill every parameter of `model`. A change here needs a new `models.SEEDED_VERSION`."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(_constant(name))
                continue
            generator = torch.Generator(device=parameter.device).manual_seed(zlib.crc32(name.encode()) ^ seed)
            parameter.normal_(0.0, _deviation(name, parameter.shape[-1]), generator=generator)


def _constant(name: str) -> float:
    if name.endswith("bias"):
        return 0.0
    return 2.0 if "q_norm" in name or "k_norm" in name else 1.0


def _deviation(name: str, fan_in: int) -> float:
    if "embed" in name:
        return 1.0
    # Attention averages over many values: a larger output projection keeps its share in the residual stream.
    return float(fan_in**-0.5) * (4.0 if "o_proj" in name else 1.0)
