"""Whether decode computes from the KV that prefill computed: log-probabilities of a request served alone, both ways.

After a case's measured passes one request goes over the handoff, alone. Then the prefill engine serves it again by
itself, and takes the prompt's KV from its own prefix cache. Both compute the same few tokens out of the same KV, so a
sound pair differs by nothing, or by what another order of summing does. How much that is on this machine is measured
when the engines have started (`Yardstick`). Positions are compared up to the first token that differs: until there
both have the same text before them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from context_research.engines.base import MOST_ALTERNATIVES, Engine
from context_research.measure.checks.outcomes import judged, not_applicable, not_provable
from context_research.records.case import CheckRecord
from context_research.request import Leg, Request
from context_research.serving.topology import Topology
from context_research.settings.schema import Device

TOKENS = 4
"""Positions that are compared, at most."""
LIKELIEST = 20
"""Tokens of each position whose log-probabilities are compared: the likeliest ones by the prefill engine."""
LEAST = {"cpu": 5e-3, "cuda": 0.03}
"""Nats, in 16 bits: no smaller distance fails. Sound ones were 0 on CPU, up to 0.015 on an H100."""
LEAST_EXACT = 1e-3
"""In float32."""
WAYS = 1.2
"""How many times the distance between an engine's own two ways the handoff may be off (docs/results/kv-probe.md)."""
POWER = 5.0
"""How many times the bound another prompt's KV must show, or the check proves nothing."""

Position = Mapping[int, float]
"""Token id -> log-probability, of the likeliest tokens."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What sound engines differ by here: distances in nats, root mean squares over positions and tokens.

    `ways`: between tokens that one engine computes one after another, and the same positions computed as the ends of
    prompts; the larger of both engines'. `another`: to another prompt with the same last token.
    """

    ways: float
    another: float


@dataclass(frozen=True, slots=True)
class Probe:
    """What one pair of engines showed; without a yardstick where `error` says why there is none."""

    prefill: str
    decode: str
    positions: int = 0
    distance: float = 0.0
    yardstick: Yardstick | None = None
    error: str | None = None


def pairs(topology: Topology) -> Iterator[tuple[Engine, Engine]]:
    """A prefill and a decode engine each, so that every engine is in one pair at least."""
    prefillers, decoders = topology.prefillers, topology.decoders
    for index in range(max(len(prefillers), len(decoders))):
        yield prefillers[index % len(prefillers)], decoders[index % len(decoders)]


async def measure(prefill: Engine, decode: Engine, request: Request, other: Request, timeout_s: float) -> Yardstick:
    """Serve both requests, which have one length, alone on engines of empty prefix caches; `timeout_s` for each time.

    Raises as engines do, TimeoutError, and ValueError for an engine that gives no log-probabilities.
    """
    own = [await _ways(engine, request, timeout_s) for engine in (prefill, decode)]
    answers = [await _alone(prefill, each, 1, timeout_s) for each in (request, other)]
    return Yardstick(max(own), distance(*(leg.alternatives[0] for leg in answers)))


async def _ways(engine: Engine, request: Request, timeout_s: float) -> float:
    """Distance between the request's tokens as they follow each other, and each computed at the end of a prompt."""
    request = replace(request, id=f"{request.id}-on-{engine.name}")
    leg = await _alone(engine, request, request.output_tokens, timeout_s)
    found = []
    for index, position in enumerate(leg.alternatives):
        longer = replace(request, id=f"{request.id}-{index}", prompt=[*request.prompt, *leg.token_ids[:index]])
        found.append(distance(position, (await _alone(engine, longer, 1, timeout_s)).alternatives[0]))
    return _rms(found)


async def probe(
    topology: Topology, prefill: Engine, decode: Engine, request: Request, known: Yardstick, timeout_s: float
) -> Probe:
    """Serve `request` over the handoff, then alone. Never raises: what happened is in the probe."""
    try:
        async with asyncio.timeout(timeout_s):
            _, handed = await topology.hand_over(request, prefill, decode, MOST_ALTERNATIVES)
        handed = _whole(handed, request.output_tokens)
        again = replace(request, id=f"{request.id}-alone")
        distances = list(_distances(await _alone(prefill, again, request.output_tokens, timeout_s), handed))
    except TimeoutError:
        return Probe(prefill.name, decode.name, error=f"no end after {timeout_s:g} s")
    except Exception as failure:  # what an engine raises for one request shows in the check
        return Probe(prefill.name, decode.name, error=f"{type(failure).__name__}: {failure}")
    return Probe(prefill.name, decode.name, len(distances), _rms(distances), known)


async def _alone(engine: Engine, request: Request, output_tokens: int, timeout_s: float) -> Leg:
    leg = Leg(engine.name, engine.role)
    async with asyncio.timeout(timeout_s):
        await engine.serve(request, leg, output_tokens=output_tokens, handoff=None, alternatives=MOST_ALTERNATIVES)
    return _whole(leg, output_tokens)


def _whole(leg: Leg, tokens: int) -> Leg:
    """The leg, if it has all tokens, each with log-probabilities. Raises ValueError otherwise."""
    counts = len(leg.token_ids), len(leg.alternatives)
    if counts != (tokens, tokens) or not all(leg.alternatives):
        raise ValueError(f"{leg.engine} gave {counts[0]} tokens, {counts[1]} with log-probabilities, for {tokens}")
    return leg


def _distances(expected: Leg, found: Leg) -> Iterator[float]:
    for index, (wanted, got) in enumerate(zip(expected.alternatives, found.alternatives, strict=True)):
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


def judge(probes: Sequence[Probe], dtype: str, device: Device) -> CheckRecord:
    """The check `kv`: the distance over the handoff is within what this machine's sound computations differ by."""
    if not probes:
        return not_applicable("kv", "no request was served alone: one had failed, or not one block fits the model")
    for each in probes:
        if each.yardstick is None or each.error:
            return judged("kv", False, f"a request alone from {each.prefill} to {each.decode}: {each.error}")
    worst = max(probes, key=lambda each: each.distance / bound(each, dtype, device))
    known, allowed = worst.yardstick or Yardstick(0.0, 0.0), bound(worst, dtype, device)
    evidence = (
        f"{len(probes)} requests alone, {sum(each.positions for each in probes)} positions: over the handoff their "
        f"log-probabilities are {worst.distance:.2g} nats off the prefill engine's own (at most {allowed:.2g}; one "
        f"engine's two ways differ by {known.ways:.2g}, another prompt's by {known.another:.2g})"
    )
    if not all(each.distance <= bound(each, dtype, device) for each in probes):  # so that no number is none, too
        return judged("kv", False, evidence)
    if known.another < POWER * allowed:
        return not_provable("kv", f"{evidence}: with these weights another request's KV would hardly show")
    return judged("kv", True, evidence)


def bound(found: Probe, dtype: str, device: Device) -> float:
    """Nats that the distance may reach."""
    ways = found.yardstick.ways if found.yardstick else 0.0
    return max(LEAST_EXACT if dtype == "float32" else LEAST[device], WAYS * ways)
