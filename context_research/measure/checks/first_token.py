"""Whether decode goes on where prefill ended: both compute the prompt's first token, for every request.

Prefill makes one token, which is discarded; decode makes it again, out of the KV that it got. A request that got
another one's KV has another first token. This costs nothing, and covers every request of a case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, lgamma, log, log1p

from context_research.engines.base import MOST_ALTERNATIVES, Engine
from context_research.measure.checks.outcomes import judged, not_applicable, not_provable
from context_research.measure.checks.output_parity import NEAR_TIE
from context_research.records.case import CheckRecord
from context_research.request import Leg, Request, Timeline
from context_research.settings.schema import Device

LOOKUPS = 4
"""Differing requests that are looked up in any case; more of them as long as that takes `LOOKUP_SHARE`."""
LOOKUP_SHARE = 0.01
"""Of the case's measured time."""
GREEDY_SHARE = {"cpu": 0.05, "cuda": 0.2}
SAMPLED_SHARE = {"cpu": 0.01, "cuda": 0.08}
"""Of first tokens: at least twice as many as differ in sound 16-bit engines (docs/results/kv-probe.md)."""
FALSE_ALARMS = 1e-5
"""Of sound cases, were it that many: more that differ can't all be near-ties."""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """How far two engines' first tokens of one request are apart: nats between the likeliest and the less likely one.

    `least`: at least that, as a token was not among those listed. None: the request could not be served again.
    """

    request: str
    gap: float | None
    least: bool = False


def differing(timelines: Sequence[Timeline]) -> list[Timeline]:
    """The requests whose two first tokens are not the same."""
    return [timeline for timeline, prefill, decode in _pairs(timelines) if prefill != decode]


async def look_up(
    engine: Engine, different: Sequence[Timeline], requests: Mapping[str, Request], seconds: float, timeout_s: float
) -> list[LookedUp]:
    """Serve requests again, alone, for how likely their two first tokens are; `seconds`: the case's measured time."""
    began, found = time.perf_counter(), list[LookedUp]()
    for timeline, *tokens in _pairs(different):
        if len(found) >= LOOKUPS and time.perf_counter() - began > LOOKUP_SHARE * seconds:
            break
        request, leg = requests[timeline.request], Leg(engine.name)
        again = replace(request, id=f"{request.id}-again")
        try:
            async with asyncio.timeout(timeout_s):
                await engine.serve(again, leg, output_tokens=1, handoff=None, alternatives=MOST_ALTERNATIVES)
            likely = leg.alternatives[0]
        except Exception:  # TimeoutError, or what an engine raises: the check says that it is not known
            found.append(LookedUp(timeline.request, None))
            continue
        gap = max(likely.values()) - min(likely.get(token, min(likely.values())) for token in tokens)
        found.append(LookedUp(timeline.request, gap, any(token not in likely for token in tokens)))
    return found


def judge(
    timelines: Sequence[Timeline], looked_up: Sequence[LookedUp], device: Device, *, exact: bool, sampled: bool
) -> CheckRecord:
    """The check `first_token`. In float32 (`exact`) no token may differ; in 16 bits only at near-ties.

    `sampled`: at a temperature. Both engines then draw with the request's seed, but a near-tie can't be told: only as
    many may differ as do in sound engines.
    """
    found = list(_pairs(timelines))
    if not found:
        return not_applicable("first_token", "no request has a first token of both engines")
    different, count = differing(timelines), len(found)
    evidence = f"{count - len(different)} of {count} requests have the same first token of both engines"
    if count > 1 and len({token for _, *tokens in found for token in tokens}) == 1:
        return not_provable("first_token", f"{evidence}, and it is the same for all prompts: it depends on none")
    if not different:
        return judged("first_token", True, evidence)
    told = f"{evidence}; not {different[0].request}"
    if exact:
        return judged("first_token", False, told)
    share = (SAMPLED_SHARE if sampled else GREEDY_SHARE)[device]
    if _tail(len(different), count, share) < FALSE_ALARMS:
        return judged("first_token", False, f"{told}: too many for near-ties, which turn at most {share:.0%}")
    if sampled:
        return judged("first_token", True, f"{told}: no more than near-ties may turn ({share:.0%})")
    return _by_near_ties(different, looked_up, evidence)


def _by_near_ties(different: Sequence[Timeline], looked_up: Sequence[LookedUp], evidence: str) -> CheckRecord:
    known = [each for each in looked_up if each.gap is not None]
    far = [each for each in known if each.gap is not None and each.gap > NEAR_TIE]
    evidence += f"; of {len(different)} others {len(known)} were served again: {len(known) - len(far)} near-ties"
    if far:
        worst = max(far, key=lambda each: each.gap or 0.0)
        how = f"{'more than ' if worst.least else ''}{worst.gap:.3g} nats"
        return judged("first_token", False, f"{evidence}; {worst.request}: {how} apart (at most {NEAR_TIE})")
    if not known:
        return not_provable("first_token", f"{evidence}, as the engine gives no log-probabilities or failed")
    return judged("first_token", True, f"{evidence} (at most {NEAR_TIE} nats apart)")


def _pairs(timelines: Sequence[Timeline]) -> list[tuple[Timeline, int, int]]:
    """Each request with the first tokens of its two legs."""
    return [
        (timeline, timeline.prefill.token_ids[0], timeline.decode.token_ids[0])
        for timeline in timelines
        if timeline.prefill and timeline.decode and timeline.prefill.token_ids and timeline.decode.token_ids
    ]


def _tail(least: int, count: int, share: float) -> float:
    """Probability of `least` or more of `count`, where each has the chance `share`."""
    return sum(exp(_log_chance(number, count, share)) for number in range(least, count + 1))


def _log_chance(number: int, count: int, share: float) -> float:
    """Of the binomial distribution; by logarithms, as the counts of a large load overflow a float."""
    ways = lgamma(count + 1) - lgamma(number + 1) - lgamma(count - number + 1)
    return ways + number * log(share) + (count - number) * log1p(-share)
