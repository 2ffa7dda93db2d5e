"""Requests as token ids, drawn from the seed alone: two runs with one seed send the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b, sha256

import numpy as np

from context_research.engines.base import Request
from context_research.settings import Workload

RESERVED_IDS = 256
"""Ids below this are not drawn: special tokens live there in models whose vocabulary we don't read."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a case asks of the KV cache at its busiest: `concurrency` requests of so many tokens."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} × ({self.prompt_tokens} prompt + {self.output_tokens} output tokens)"


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt length at one concurrency."""

    experiment: str
    prompt_tokens: int
    concurrency: int

    @property
    def name(self) -> str:
        return f"p{self.prompt_tokens}-c{self.concurrency}"

    def load(self, workload: Workload) -> Load:
        return Load(self.prompt_tokens, workload.output_tokens, self.concurrency)

    def seed(self, run_seed: int, part: str) -> int:
        """A seed of this case's own, so that no case's requests depend on which others run, or in which process."""
        text = f"{run_seed}:{self.experiment}:{self.name}:{part}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def requests(case: Case, workload: Workload, run_seed: int, vocabulary: int, repeat: int | None) -> list[Request]:
    """The requests of one repeat, or of the warm-up (`repeat` None): unique prompts, in the order of arrival.

    Token ids are uniform over the vocabulary: no two prompts share a cache block, within a repeat or across repeats.
    """
    part = "warmup" if repeat is None else f"repeat{repeat}"
    count = workload.warmup_requests if repeat is None else workload.requests
    seed = case.seed(run_seed, part)
    rng = np.random.default_rng(seed)
    prompts = rng.integers(
        min(RESERVED_IDS, vocabulary - 1), vocabulary, size=(count, case.prompt_tokens), dtype=np.int64
    )
    made = []
    for index, prompt in enumerate(prompts):
        # vLLM takes a signed 64-bit seed per request.
        own_seed = (seed + index) % (1 << 63)
        sent = f"{workload.output_tokens}:{workload.temperature}:{own_seed}:".encode() + prompt.astype("<i8").tobytes()
        made.append(
            Request(
                id=f"{case.experiment}-{case.name}-{part}-{index:04d}",
                prompt=prompt.tolist(),
                output_tokens=workload.output_tokens,
                seed=own_seed,
                temperature=workload.temperature,
                sha256=sha256(sent).hexdigest(),
            )
        )
    return made
