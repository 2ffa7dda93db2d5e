"""A machine whose every duration is a power of two: what a test adds up by hand comes out to the last bit."""

import asyncio

import yaml

from context_research.models import hub
from context_research.records.requests import MOMENTS
from context_research.request import Request, add_reads
from tests.support.settings import tolerant

BLOCK = 128
KV = 4096
"""Bytes a token: 2 × 4 layers × 2 heads × 64 × 4."""
POLL = -(-(2**30) // 1000) / 2**30
"""EngineCore's millisecond, on the clock's grid."""
SUBMIT, SUBMIT_TOKEN, DELIVER = 2**-9, 2**-18, 2**-8
LATENCY, DESCRIPTOR, BANDWIDTH = 2**-7, 2**-16, 2**28
CONSTANT, TOKEN, PAIR, DECODE, DECODE_KV = 2**-6, 2**-14, 2**-28, 2**-10, 2**-20
SLOWER = {"aggregated": 1, "prefill": 2, "decode": 4}
"""Of a role's steps: so that figures of one can't be taken for another's."""


def step(role="aggregated", prefill=(), decode=()):
    """Seconds of a step: `prefill` holds (tokens now, tokens before), `decode` the tokens before, of each request."""
    tokens = sum(new for new, _ in prefill)
    pairs = sum(before + each for new, before in prefill for each in range(1, new + 1))
    return SLOWER[role] * (CONSTANT + TOKEN * tokens + PAIR * pairs + DECODE * len(decode) + DECODE_KV * sum(decode))


def submit(tokens):
    """From the client to the engine."""
    return SUBMIT + SUBMIT_TOKEN * tokens


def link(tokens, others=0):
    """A KV read of so many tokens with others beside it all the time."""
    blocks = -(-tokens // BLOCK)
    return LATENCY + (1 + others) * (8 * blocks * DESCRIPTOR + blocks * BLOCK * KV / BANDWIDTH)


def profile(path, device="cpu", count=2, ranges=None, contention=None, between_steps=False, **changes):
    """Write such a machine's profile; each role of one device, and an aggregated engine of every number of them."""
    label = hub.resolve(tolerant().model).label
    fits = [
        {
            "model": label,
            "dtype": "float32",
            "role": role,
            "devices": devices,
            "coefficients": {
                "constant": slower * CONSTANT,
                "prefill_tokens": slower * TOKEN,
                "prefill_pairs": slower * PAIR,
                "decode_requests": slower * DECODE,
                "decode_kv_tokens": slower * DECODE_KV,
            },
            "contention": contention,
            "ranges": ranges or {},
            "residuals": {},
            "steps": 1,
            "runs": ["made"],
        }
        for role, slower in SLOWER.items()
        for devices in range(1, count + 1)
    ]
    tree = {
        "name": path.stem,
        "device": device,
        "count": count,
        "memory_bytes": 2**34,
        "link": {
            "latency_s": LATENCY,
            "descriptor_s": DESCRIPTOR,
            "bandwidth": float(BANDWIDTH),
            "between_steps": between_steps,
        },
        "client": {"submit_s": SUBMIT, "submit_token_s": SUBMIT_TOKEN, "deliver_s": DELIVER},
        "step_time": {"source": "linear", "fits": fits},
        "provenance": {"step_time": "made up"},
    }
    path.write_text(yaml.safe_dump(tree | changes))
    return path


def settings(path, serving="aggregated", device="cpu", **values):
    """E0's settings on that machine, the tiny model on either device."""
    given = {
        "backend": "simulated",
        "device_profile": str(path),
        "device": device,
        "model__name": "tiny-qwen3",
        "model__weights": "seeded",
        "model__dtype": "float32",
        "model__max_model_len": 4096,
        "engine__block_size": BLOCK,
        "engine__kv_cache_memory_bytes": 256 << 20,
        "engine__max_num_seqs": 16,
        "engine__max_num_batched_tokens": 2048,
    }
    return tolerant(serving, **(given | values))


def request(name, prompt, output, *, token=None):
    """`name` decides the prompt, unless `token` does."""
    filled = 1000 + sum(map(ord, name)) if token is None else token
    return Request(name, [filled] * prompt, output, seed=0, temperature=0.0, sha256=name)


def serve(topology, *planned):
    """Timelines of requests that are sent at given seconds, and their beginning: (at, request), …"""

    async def one(at, asked, origin):
        await asyncio.sleep(at)
        return await topology.serve(asked, 0, origin + at)

    async def every():
        origin = asyncio.get_running_loop().time()
        return origin, await asyncio.gather(*(one(at, asked, origin) for at, asked in planned))

    origin, timelines = topology.backend.loop.run(every())
    add_reads(timelines, [read for engine in topology.engines for read in engine.counters.reads])
    for timeline in timelines:
        _shift(timeline, origin)
    return timelines


def _shift(timeline, origin):
    timeline.scheduled -= origin
    for leg in timeline.legs:
        for name in MOMENTS:
            if (value := getattr(leg, name)) is not None:
                setattr(leg, name, value - origin)
        leg.token_times = [moment - origin for moment in leg.token_times]


def whole(engine):
    """Whether no request holds any of the engine's KV."""
    return engine._machine.loop.run(engine.reset_prefix_cache())
