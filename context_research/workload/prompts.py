"""Requests as token ids, drawn from the seed alone: two runs with one seed send the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256

import numpy as np

from context_research.engines.base import Request
from context_research.settings import Workload
from context_research.timeline import Phase

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

    A repeat's measured requests have others before and after them, so that the load is whole while they are served:
    those that are sent together at the start (`ramp`), and those that keep every slot busy to the end (`drain`).
    Token ids are uniform over the vocabulary: no two prompts share a cache block, within a repeat or across repeats.
    """
    part = "warmup" if repeat is None else f"repeat{repeat}"
    warmup: list[Phase] = ["warmup"] * workload.warmup_requests
    phases = warmup if repeat is None else in_a_pass(workload, case.concurrency)
    seed = case.seed(run_seed, part)
    rng = np.random.default_rng(seed)
    prompts = rng.integers(
        min(RESERVED_IDS, vocabulary - 1), vocabulary, size=(len(phases), case.prompt_tokens), dtype=np.int64
    )
    made = []
    for index, (phase, prompt) in enumerate(zip(phases, prompts, strict=True)):
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
                phase=phase,
            )
        )
    return made


def in_a_pass(workload: Workload, concurrency: int) -> list[Phase]:
    """The phases of a repeat's requests, in the order of arrival."""
    ramp, drain = (0, 0) if concurrency == 1 else (concurrency, concurrency - 1)
    measured = max(workload.requests, concurrency)  # fewer would be no load of that concurrency
    phases: list[tuple[Phase, int]] = [("ramp", ramp), ("measured", measured), ("drain", drain)]
    return [phase for phase, count in phases for _ in range(count)]


def beginnings(batch: Sequence[Request], share: float) -> list[Request]:
    """One request for the first `share` (0 to 1) of each prompt: served, it leaves that much in a prefix cache."""
    return [replace(r, id=f"{r.id}-prime", prompt=r.prompt[: int(len(r.prompt) * share)]) for r in batch]
