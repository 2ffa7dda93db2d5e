"""Requests as token ids, drawn from the seed alone: two runs with one seed send the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from context_research.models.capacity import block_tokens
from context_research.request import Phase, Request
from context_research.settings.schema import Workload
from context_research.workload.case import Case

RESERVED_IDS = 256
"""Ids below this are not drawn: special tokens live there in models whose vocabulary we don't read."""


def requests(case: Case, vocabulary: int, repeat: int | None) -> list[Request]:
    """The requests of one repeat, or of the warm-up (`repeat` None): unique prompts, in the order of arrival.

    A repeat's measured requests have others before and after them, so that the load is whole while they are served:
    those that are sent together at the start (`ramp`), and those that keep every slot busy to the end (`drain`).
    Token ids are uniform over the vocabulary: no two prompts share a cache block, within a repeat or across repeats.
    """
    workload = case.settings.workload
    part = "warmup" if repeat is None else f"repeat{repeat}"
    warmup: list[Phase] = ["warmup"] * workload.warmup_requests
    phases = warmup if repeat is None else in_a_pass(workload, case.concurrency)
    seed = case.seed(part)
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
                id=f"{case.settings.experiment}-{case.name}-{part}-{index:04d}",
                prompt=prompt.tolist(),
                output_tokens=workload.output_tokens,
                seed=own_seed,
                temperature=workload.temperature,
                sha256=sha256(sent).hexdigest(),
                phase=phase,
            )
        )
    return made


def alone(case: Case, vocabulary: int, number: int, output_tokens: int, most: int) -> tuple[Request, Request] | None:
    """Two greedy requests that are in none of the case's passes; their prompts share the last token.

    They are as long as the case's to within a block, and one token longer than whole blocks: an engine that has them in
    its prefix cache computes that token alone, as decode does. With their output they have at most `most` tokens; None
    where that is less than a block.
    """
    rng, block = np.random.default_rng(case.seed(f"alone{number}")), block_tokens(case.settings)
    blocks = -(-(case.prompt_tokens - 1) // block)
    if blocks * block + 1 + output_tokens > most:
        blocks -= 1
    if blocks < 1:
        return None
    size = (2, blocks * block + 1)
    first, second = rng.integers(min(RESERVED_IDS, vocabulary - 1), vocabulary, size=size).tolist()
    second[-1] = first[-1]
    name = f"{case.settings.experiment}-{case.name}-alone{number}"
    made = Request(id=name, prompt=first, output_tokens=output_tokens, seed=0, temperature=0.0, sha256="")
    return made, replace(made, id=f"{name}-other", prompt=second)


def in_a_pass(workload: Workload, concurrency: int) -> list[Phase]:
    """The phases of a repeat's requests, in the order of arrival."""
    return [phase for phase, count in _counts(workload, concurrency).items() for _ in range(count)]


def pass_length(workload: Workload, concurrency: int) -> int:
    """How many requests a repeat has."""
    return sum(_counts(workload, concurrency).values())


def _counts(workload: Workload, concurrency: int) -> dict[Phase, int]:
    ramp, drain = (0, 0) if concurrency == 1 else (concurrency, concurrency - 1)
    measured = max(workload.requests, concurrency)  # fewer would be no load of that concurrency
    return {"ramp": ramp, "measured": measured, "drain": drain}


def beginnings(batch: Sequence[Request], share: float) -> list[Request]:
    """One request for the first `share` (0 to 1) of each prompt: served, it leaves that much in a prefix cache."""
    return [replace(r, id=f"{r.id}-prime", prompt=r.prompt[: int(len(r.prompt) * share)]) for r in batch]
