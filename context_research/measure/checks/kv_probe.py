"""Whether decode computes from the KV that prefill computed: log-probabilities of a request served alone, both ways.

After a case's measured passes one request goes over the handoff, alone. Then the prefill engine serves it again by
itself, and takes the prompt's KV from its own prefix cache. Both compute the same few tokens out of the same KV by the
same kernels, so a sound pair differs by nothing on one kind of device, or by what another order of summing does. Here
each position is compared up to the first token that differs: until there both have the same text before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from context_research.engines.base import MOST_ALTERNATIVES, Engine
from context_research.measure.checks.outcomes import judged, not_applicable, not_provable
from context_research.models.model import Model
from context_research.records.case import CheckRecord
from context_research.request import Leg, Request
from context_research.serving.topology import Topology

TOKENS = 4
"""Positions that are compared, at most."""
LIKELIEST = 20
"""Tokens of each position whose log-probabilities are compared: the likeliest ones by the prefill engine."""
LEAST = {"float32": 1e-3, "16 bits": 5e-3}
"""Nats: no smaller distance fails. Sound engines of one kind differ by 0, KV rounded to 16 bits from 32 by 8e-3."""
NOISE = 3.0
"""How many times the distance between the prefill engine's own two ways to the first position may be reached."""
POWER = 5.0
"""How many times the bound another prompt's KV must show, or the check proves nothing."""

Position = Mapping[int, float]
"""Token id -> log-probability, of the likeliest tokens."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one pair of engines showed. Distances in nats, root mean squares over positions and tokens.

    `noise` is that between the whole prompt computed, and its last tokens computed out of the prefix cache, on the
    prefill engine; `another`, where it was asked for, that to another prompt with the same last token.
    """

    prefill: str
    decode: str
    positions: int
    distance: float
    noise: float
    another: float | None = None
    error: str | None = None


def pairs(topology: Topology) -> Iterator[tuple[Engine, Engine]]:
    """A prefill and a decode engine each, so that every engine is in one pair at least."""
    prefillers, decoders = topology.prefillers, topology.decoders
    for index in range(max(len(prefillers), len(decoders))):
        yield prefillers[index % len(prefillers)], decoders[index % len(decoders)]


async def probe(
    topology: Topology,
    prefill: Engine,
    decode: Engine,
    request: Request,
    timeout_s: float,
    other: Request | None = None,
) -> Probe:
    """Serve `request` over the handoff, then alone; `other`, a prompt of the same length, only alone. Never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _served(topology, prefill, decode, request, other)
    except TimeoutError:
        error = f"no end after {timeout_s:g} s"
    except Exception as failure:  # what an engine raises for one request shows in the check
        error = f"{type(failure).__name__}: {failure}"
    return Probe(prefill.name, decode.name, 0, 0.0, 0.0, error=error)


async def _served(
    topology: Topology, prefill: Engine, decode: Engine, request: Request, other: Request | None
) -> Probe:
    first, handed = await topology.hand_over(request, prefill, decode, MOST_ALTERNATIVES)
    alone = await _alone(prefill, replace(request, id=f"{request.id}-alone"), request.output_tokens)
    # Without a prefix cache the prompt was computed once more, by the kernels for whole prompts: only the tokens after
    # the first are then computed alike.
    since = 0 if alone.cached_tokens else 1
    distances = list(_distances(alone, handed, since))
    return Probe(
        prefill.name,
        decode.name,
        len(distances),
        _rms(distances),
        distance(alone.alternatives[0], first.alternatives[0]),
        None if other is None else distance(alone.alternatives[0], (await _alone(prefill, other, 1)).alternatives[0]),
    )


async def _alone(engine: Engine, request: Request, output_tokens: int) -> Leg:
    leg = Leg(engine.name, engine.role)
    await engine.serve(request, leg, output_tokens=output_tokens, handoff=None, alternatives=MOST_ALTERNATIVES)
    return leg


def _distances(expected: Leg, found: Leg, since: int) -> Iterator[float]:
    for index, (wanted, got) in enumerate(zip(expected.alternatives, found.alternatives, strict=True)):
        if index >= since:
            yield distance(wanted, got)
        if expected.token_ids[index] != found.token_ids[index]:
            return


def distance(expected: Position, found: Position) -> float:
    """Root mean square, in nats, of how much the log-probabilities of the likeliest `expected` tokens differ.

    A token that `found` does not list counts as its least likely one that is listed: no more than it is off.
    """
    likeliest = sorted(expected, key=lambda token: expected[token], reverse=True)[:LIKELIEST]
    least = min(found.values())
    return _rms([expected[token] - found.get(token, least) for token in likeliest])


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else 0.0


def judge(probes: Sequence[Probe], model: Model) -> CheckRecord:
    """The check `kv`: the distance over the handoff is within what this machine's sound computations differ by."""
    if not probes:
        return not_applicable("kv", "no request was measured without a failure")
    if broken := [each for each in probes if each.error]:
        first = broken[0]
        return judged("kv", False, f"a request alone from {first.prefill} to {first.decode}: {first.error}")
    worst = max(probes, key=lambda each: each.distance / bound(each, model))
    allowed, another = bound(worst, model), [each.another for each in probes if each.another is not None]
    evidence = (
        f"{len(probes)} requests alone, {sum(each.positions for each in probes)} positions: over the handoff their "
        f"log-probabilities are {worst.distance:.2g} nats off the prefill engine's own (at most {allowed:.2g}; its "
        f"own two ways differ by {worst.noise:.2g})"
    )
    if another:
        evidence += f"; another prompt's by {min(another):.2g}"
        if min(another) < POWER * allowed:
            return not_provable("kv", f"{evidence}: with these weights another request's KV would hardly show")
    if not all(each.positions for each in probes):
        return not_provable("kv", f"{evidence}; without a prefix cache the first token's KV can't be compared")
    return judged("kv", worst.distance <= allowed, evidence)


def bound(found: Probe, model: Model) -> float:
    """Nats that the distance may reach."""
    return max(LEAST.get(model.dtype, LEAST["16 bits"]), NOISE * found.noise)
