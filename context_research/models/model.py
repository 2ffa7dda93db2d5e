"""A model as resolved: its config, weights' hash, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_research.settings.schema import ModelSettings

_DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True, slots=True)
class Model:
    """A model as resolved. `path` is what vLLM gets; for hub weights it is known only after `download`."""

    settings: ModelSettings
    path: Path | None
    config: Mapping[str, Any]
    revision: str | None
    weights_hash: str

    @property
    def label(self) -> str:
        """Names the weights wherever a figure is shown, such as ``tiny-qwen3 seeded:1a2b3c4d``."""
        return f"{self.settings.name} {self.settings.weights}:{self.weights_hash[:8]}"

    @property
    def max_length(self) -> int:
        """Prompt + output tokens of the longest request that the model takes."""
        own = int(self.config["max_position_embeddings"])
        return min(own, self.settings.max_model_len or own)

    @property
    def vocabulary(self) -> int:
        return int(self.config["vocab_size"])

    @property
    def dtype(self) -> str:
        named: str = self.settings.dtype
        if named == "auto":
            named = str(self.config.get("dtype") or self.config.get("torch_dtype", "bfloat16"))
        return {"float": "float32", "half": "float16"}.get(named, named)  # vLLM's other names

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers: 2 × layers × KV heads × head size × bytes of the dtype."""
        heads = int(self.config["num_attention_heads"])
        head_dim = int(self.config.get("head_dim") or self.config["hidden_size"] // heads)
        kv_heads = int(self.config.get("num_key_value_heads", heads))
        return 2 * int(self.config["num_hidden_layers"]) * kv_heads * head_dim * _DTYPE_BYTES.get(self.dtype, 2)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of a dense transformer with a gated MLP, from its config; norms left out."""
        c = self.config
        hidden, layers, heads = int(c["hidden_size"]), int(c["num_hidden_layers"]), int(c["num_attention_heads"])
        head_dim = int(c.get("head_dim") or hidden // heads)
        attention = hidden * head_dim * 2 * (heads + int(c.get("num_key_value_heads", heads)))
        mlp = 3 * hidden * int(c.get("intermediate_size") or 4 * hidden)
        embeddings = (1 if c.get("tie_word_embeddings") else 2) * int(c["vocab_size"]) * hidden
        return (layers * (attention + mlp) + embeddings) * _DTYPE_BYTES.get(self.dtype, 2)
