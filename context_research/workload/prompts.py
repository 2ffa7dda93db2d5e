"""Requests as token ids, drawn from the seed alone: two runs with one seed send the same bytes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from context_research.models.capacity import block_tokens
from context_research.request import Request
from context_research.workload.case import Case
from context_research.workload.load import planned, typical

RESERVED_IDS = 256
"""Ids below this are not drawn: special tokens live there in models whose vocabulary we don't read."""


def requests(case: Case, vocabulary: int, repeat: int | None) -> list[Request]:
    """The requests of one repeat, or of the warm-up (`repeat` None), in the order of arrival, each prompt unique.

    A repeat's measured requests have others before and after them, so that the load is whole while they are served
    (`ramp`, `drain`). Token ids are uniform over the vocabulary: no two prompts share a cache block, within a repeat or
    across repeats. Raises UsageProblem: a trace that can't be read.
    """
    workload = case.settings.workload
    part = "warmup" if repeat is None else f"repeat{repeat}"
    seed = case.seed(part)
    rng = np.random.default_rng(seed)
    made = []
    for index, plan in enumerate(planned(case, repeat)):
        drawn = rng.integers(min(RESERVED_IDS, vocabulary - 1), vocabulary, size=plan.prompt_tokens, dtype=np.int64)
        # vLLM takes a signed 64-bit seed per request.
        own_seed = (seed + index) % (1 << 63)
        told = f"{plan.output_tokens}:{workload.temperature}:{own_seed}:"
        if plan.due is not None:
            told += f"{plan.due!r}:"
        made.append(
            Request(
                id=f"{case.settings.experiment}-{case.name}-{part}-{index:04d}",
                prompt=array("i", drawn.astype(np.intc).tobytes()),
                output_tokens=plan.output_tokens,
                seed=own_seed,
                temperature=workload.temperature,
                sha256=sha256(told.encode() + drawn.astype("<i8").tobytes()).hexdigest(),
                phase=plan.phase,
                due=plan.due,
                class_name=plan.class_name,
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
    blocks = -(-(typical(case).prompt_tokens - 1) // block)
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


def beginnings(batch: Sequence[Request], share: float) -> list[Request]:
    """One request for the first `share` (0 to 1) of each prompt: served, it leaves that much in a prefix cache."""
    return [replace(r, id=f"{r.id}-prime", prompt=r.prompt[: int(len(r.prompt) * share)]) for r in batch]
