"""Whether the client's tokens are as many as the engines made: what an engine counts itself, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from context_research.engines.base import Counters
from context_research.measure.checks.outcomes import judged, not_applicable
from context_research.records.case import CheckRecord
from context_research.request import Timeline

TICK = 2
"""Tokens of the prompt that an engine gets last."""


class Ours(NamedTuple):
    """Requests of one token that checks sent to an engine while it counted, and the tokens of their prompts.

    The last of them, of `TICK` tokens, may be counted or not: an engine's account of a step follows its tokens.
    """

    requests: int = 0
    prompt_tokens: int = 0

    def with_one(self, prompt_tokens: int) -> Ours:
        return Ours(self.requests + 1, self.prompt_tokens + prompt_tokens)


def judge(
    timelines: Sequence[Timeline], engines: Mapping[str, Counters], ours: Mapping[str, Ours], handed_over: bool
) -> CheckRecord:
    """The check `tokens`: each engine generated what the client got of it, and computed the prompts that were sent.

    `timelines` are those served since the engines' counts began; `engines` holds the counts by engine, `ours` what
    checks sent to each meanwhile.
    """
    if not timelines or any(timeline.error for timeline in timelines):
        return not_applicable("tokens", "a request failed" if timelines else "no request was measured")
    told, problems = list[str](), list[str]()
    for name, counted in engines.items():
        legs = [(timeline, leg) for timeline in timelines for leg in timeline.legs if leg.engine == name]
        output = sum(len(leg.token_ids) for _, leg in legs)
        prompt = sum(timeline.prompt_tokens for timeline, _ in legs)
        of_prompts = counted.prompt_computed + counted.prompt_cached + counted.prompt_external
        told.append(
            f"{name}: {counted.generated} generated, {output} at the client; {of_prompts} prompt tokens of {prompt}"
        )
        extra = ours.get(name, Ours())
        if not output + max(0, extra.requests - 1) <= counted.generated <= output + extra.requests:
            problems.append(f"{name} did not generate what the client got")
        # Decode computes one token of a request anew, and some versions of vLLM count it twice.
        twice = len(legs) if handed_over else 0
        least = prompt - twice + max(0, extra.prompt_tokens - TICK)
        if not least <= of_prompts <= prompt + twice + extra.prompt_tokens:
            problems.append(f"{name} did not compute the prompts that were sent")
    return judged("tokens", not problems, "; ".join(problems + told))
