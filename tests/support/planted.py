"""A small case on engines that a test has changed, and what its checks found."""

import asyncio
import itertools
import os
import signal

from context_research.measure.case import measure
from context_research.measure.checks import evidence
from context_research.models import hub
from context_research.records.files import RunFiles
from context_research.workload.case import point
from tests.support.engines import Changed
from tests.support.settings import small

CASE = (300, 2)
"""Prompt tokens, in flight."""


def judged(folder, topology, chosen=None, case=CASE):
    """The case's result; parity references are kept in `folder`."""
    chosen = chosen or small()
    model = hub.resolve(chosen.model)
    at = point(chosen, *case)
    standing = evidence.standing(model, [at], RunFiles(folder, "planted"))
    return measure(at, model, topology, standing)


def failed(result):
    return {check.check: check.evidence for check in result.checks if check.status == "fail"}


def with_engines(topology, *engines, timeout_s=20):
    return type(topology)(topology.backend, engines, timeout_s)


def kill(engine):
    for process in engine._cores:
        os.kill(process.pid, signal.SIGKILL)


def swapping(topology, every=1):
    """Two requests of one length get each other's KV: every count is right, and every token is wrong.

    Of the load's requests, in pairs, one pair of `every`; a request that is served alone has no other.
    """
    waiting, pairs = [], itertools.count()

    class Decode(Changed):
        async def serve(self, request, leg, *, handoff, **options):
            if "repeat" in request.id and waiting:
                (other, partner), swaps = waiting.pop(), next(pairs) % every == 0
                partner.set_result(handoff if swaps else other)
                handoff = other if swaps else handoff
            elif "repeat" in request.id:
                mine = asyncio.get_running_loop().create_future()
                waiting.append((handoff, mine))
                handoff = await mine
            await self._engine.serve(request, leg, handoff=handoff, **options)

    return with_engines(topology, topology.of_role("prefill")[0], Decode(topology.of_role("decode")[0]))
