"""Step times by NVIDIA's aiconfigurator-core: measured kernels of a GPU system, put together for a model."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from context_research.engines.batch import Batch
from context_research.engines.simulated.profiles import AIConfigurator, DeviceProfile
from context_research.engines.simulated.step_time.base import StepTime
from context_research.errors import UsageProblem
from context_research.hardware.manifest import version_of
from context_research.hardware.placement import Placement
from context_research.models.model import Model

DISTRIBUTION = "aiconfigurator-core"
_MEASURED_DTYPES = ("bfloat16", "float16", "half")

PREFILL_LENGTH = 16_384
"""Tokens of one request, with those before the chunk, up to which its prefill attention is measured (all systems).
Every measurement is of a whole prompt: of a chunk with a prefix it scales one by the work."""
PREFILL_TOKENS = 131_072
"""Of all requests of a step together: 8 × 16,384, 16 × 8,192, …, 256 × 512 are the largest attention batches."""
_GEMM_TOKENS = {"a100_sxm": 8_192}, 32_768
"""Tokens of a step up to which matrix products are measured: by system, and of the others."""
_DECODE_READS = {"a100_sxm": 1 << 23}, 1 << 24
"""KV tokens × query heads of a GPU up to which decode attention is measured; a single request's stop at an eighth."""
_DECODE_LENGTH = 131_071


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far the measurements reach for one system and model (read off aiconfigurator-core 0.12.0's tables)."""

    gemm_tokens: int
    decode_length: float
    """KV tokens of one request."""
    decode_tokens: float
    """KV tokens of all requests of a step together."""

    @classmethod
    def of(cls, system: str, heads: float) -> Bounds:
        """`heads`: query heads on one GPU."""
        reads = _DECODE_READS[0].get(system, _DECODE_READS[1]) / heads
        return cls(_GEMM_TOKENS[0].get(system, _GEMM_TOKENS[1]), min(_DECODE_LENGTH, reads / 8), reads)

    def hold(self, batch: Batch) -> bool:
        if batch.prefill_tokens + batch.decode_requests > self.gemm_tokens:
            return False
        in_prefill, requests = batch.prefill_tokens + batch.prefill_kv_tokens, batch.prefill_requests
        if in_prefill > min(requests * PREFILL_LENGTH, PREFILL_TOKENS):
            return False
        return batch.decode_kv_tokens <= min(batch.decode_requests * self.decode_length, self.decode_tokens)


class AIConfiguratorStepTime:
    """One engine's step times: aiconfigurator's × scale + overhead."""

    def __init__(self, steps: AIConfigurator, model: Model, devices: int, origin: str) -> None:
        self._steps, self._model, self._devices = steps, model, devices
        self._backend_version = backend_version(steps.system, origin)
        if model.dtype not in _MEASURED_DTYPES:
            raise UsageProblem(
                f"{origin}: aiconfigurator knows 16-bit weights, and {model.label} is {model.dtype}: "
                "use --set model.dtype=bfloat16, or a profile from calibrate"
            )
        self._bounds = Bounds.of(steps.system, int(model.config["num_attention_heads"]) / devices)
        try:
            self._estimate = self._built().estimate_forward_pass_time_ms
            self.of(Batch(decode_requests=1, decode_kv_tokens=1))
        except ValueError as error:
            # Compiled errors are one long chain of causes: the last says what is wrong.
            why = " ".join(str(error).split()).rpartition("compile_engine: ")[2]
            raise UsageProblem(
                f"{origin}: aiconfigurator has no estimate for {model.label} on {devices} × {steps.system}: {why[:200]}"
            ) from None
        # Deterministic, and the decode steps of equal loads come again and again.
        self.of = lru_cache(maxsize=65_536)(self.of)  # type: ignore[method-assign]

    def _built(self) -> Any:
        from aiconfigurator_core.sdk.rust_engine_step import RustForwardPassPerfModel

        bundled = self._model.settings.name in _bundled()
        config = {
            "schema_version": 1,
            # A folder's config.json is read as it is; a name that it does not carry would be fetched from the hub.
            "model_name": self._model.settings.name if bundled or not self._model.path else str(self._model.path),
            "system_name": self._steps.system,
            "backend": "vllm",
            "backend_version": self._backend_version,
            "tp_size": self._devices,
            "pp_size": 1,
            "attention_dp_size": 1,
            "kv_block_size": 16,
            "extra": {},
        }
        unset = ("moe_tp_size", "moe_ep_size", "weight_dtype", "activation_dtype", "moe_dtype", "kv_cache_dtype")
        return RustForwardPassPerfModel.from_native(config | dict.fromkeys((*unset, "nextn")))

    def of(self, batch: Batch) -> StepTime:
        requests, kv = prefill_as_equals(batch)
        scheduled = {
            "num_prefill_requests": requests,
            "sum_prefill_tokens": batch.prefill_tokens,
            "sum_prefill_kv_tokens": kv,
            "num_decode_requests": batch.decode_requests,
            "sum_decode_kv_tokens": batch.decode_kv_tokens,
        }
        milliseconds = float(self._estimate({"version": 1, "scheduled_requests": scheduled}))
        seconds = milliseconds * 1e-3 * self._steps.scale + self._steps.overhead_s
        return StepTime(seconds, not self._bounds.hold(batch))

    @property
    def contention(self) -> float | None:
        return None

    def describe(self) -> dict[str, object]:
        return {
            "source": "aiconfigurator",
            "calibrated": bool(self._steps.calibrated),
            "package": f"{DISTRIBUTION} {installed()}",
            "system": self._steps.system,
            "kernels": f"vllm {self._backend_version}",
            "tensor_parallel": self._devices,
            "scale": self._steps.scale,
            "overhead_s": self._steps.overhead_s,
            "runs": list(self._steps.calibrated),
        }


def prefill_as_equals(batch: Batch) -> tuple[int, int]:
    """(requests, KV tokens) of equal prefills that do the batch's attention work.

    aiconfigurator takes the prefills of a step to be equal. The end of one long prompt and the start of another are
    not: their means would be charged four times the pairs. Where that is so, as many equal prefills as have the same
    tokens and the same pairs are put in their place.
    """
    tokens, pairs = batch.prefill_tokens, batch.prefill_pairs
    if not tokens:
        return 0, 0
    if math.isclose(pairs, _equal_pairs(tokens, batch.prefill_kv_tokens, batch.prefill_requests), rel_tol=0.01):
        return batch.prefill_requests, batch.prefill_kv_tokens
    # One without a prefix has tokens × (tokens + 1) / 2 pairs, n have an n-th of that.
    requests = max(1, math.ceil(tokens / max(1.0, 2 * pairs / tokens - 1) - 1e-9))
    missing = max(0.0, pairs - _equal_pairs(tokens, 0, requests))
    return requests, round(requests * missing / tokens)


def _equal_pairs(tokens: int, kv: int, requests: int) -> float:
    return tokens * kv / requests + tokens * (tokens / requests + 1) / 2


def of_profile(
    profile: DeviceProfile, steps: AIConfigurator, model: Model, placement: Placement
) -> AIConfiguratorStepTime:
    """The profile's estimates for one engine. Raises UsageProblem: package missing, system or model not covered."""
    return AIConfiguratorStepTime(steps, model, len(placement.devices), f"device profile {profile.name}")


def installed() -> str | None:
    """The version of the package, or None."""
    return version_of(DISTRIBUTION)


@dataclass(frozen=True, slots=True)
class System:
    """A GPU system that has vLLM kernels measured."""

    name: str
    kernels: str
    """The vLLM that they were measured with."""
    models: tuple[str, ...]
    """Models that aiconfigurator's own test matrix has whole on this system; others of their architectures work."""


def coverage() -> list[System]:
    """The systems with measured vLLM kernels. Raises UsageProblem: package missing."""
    return [System(name, kernels, _passed(name)) for name, kernels in sorted(_Tables().versions.items())]


def backend_version(system: str, origin: str) -> str:
    """The vLLM whose kernels stand for this system. Raises UsageProblem: package missing, no such system."""
    known = _Tables().versions
    if system not in known:
        raise UsageProblem(f"{origin}: aiconfigurator has no vLLM kernels of {system!r}, only of {', '.join(known)}")
    return known[system]


class _Tables:
    """aiconfigurator's data files, found without importing it."""

    def __init__(self) -> None:
        found = find_spec("aiconfigurator_core")
        if found is None or not found.submodule_search_locations or installed() is None:
            raise UsageProblem(
                f"step times of this device profile come from {DISTRIBUTION}, and it is not installed: "
                "pip install 'context-research[simulated]'"
            )
        self.root = Path(found.submodule_search_locations[0])

    @cached_property
    def versions(self) -> dict[str, str]:
        """System -> version of vLLM, where both attention and matrix products were measured."""
        systems = self.root / "systems"
        slots = yaml.safe_load((systems / "query_versions.yaml").read_text(encoding="utf-8"))
        default = slots["defaults"]["vllm"]["current"]
        named = {
            path.stem: str(slots["overrides"].get(path.stem, {}).get("vllm", {}).get("current", default))
            for path in sorted((systems / "data").iterdir())
        }
        kinds = ("attention", "gemm")
        return {
            name: kernels
            for name, kernels in named.items()
            if all((systems / "data" / name / kind / "vllm" / kernels).is_dir() for kind in kinds)
        }


def _passed(system: str) -> tuple[str, ...]:
    path = _Tables().root / "systems" / "support_matrix" / f"{system}.csv"
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        return tuple(sorted({r["HuggingFaceID"] for r in rows if r["Backend"] == "vllm" and r["Status"] == "PASS"}))


def _bundled() -> frozenset[str]:
    folder = _Tables().root / "model_configs"
    suffix = "_config.json"
    return frozenset(path.name.removesuffix(suffix).replace("--", "/", 1) for path in folder.glob(f"*{suffix}"))
