"""Whether the tokens are the right ones: greedy outputs against those of one engine that serves each request alone.

A reference is kept in `<outputs>/references/` and reused by every run whose key matches, of either serving mode: so the
second arm of a comparison is held against the first one's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock
from pydantic import JsonValue

from context_research.engines.base import MOST_ALTERNATIVES, Engine
from context_research.engines.loop import EventLoop
from context_research.errors import EngineFailure, UsageProblem
from context_research.hardware import devices, manifest
from context_research.models.model import Model
from context_research.records import redact, store
from context_research.records.base import JsonObject
from context_research.records.reference import OutputRecord, ReferenceRecord
from context_research.request import Leg, Request, Timeline
from context_research.settings.schema import Settings

SAMPLE = 3
"""Requests of each case that are compared."""
NEAR_TIE = 0.75
"""Log-probability, in nats, by which the reference may have preferred its token where a 16-bit output first differs.

More than another order of summing was seen to turn, less than MOST_ALTERNATIVES tokens span: docs/why-validity.md.
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """Prompt hash -> greedy tokens, and the likeliest tokens' log-probabilities at each position."""

    outputs: Mapping[str, OutputRecord]
    origin: str


@dataclass(frozen=True, slots=True)
class NoReference:
    """Why there is nothing to compare outputs with, and what that makes of the check."""

    status: Literal["fail", "n/a", "not provable"]
    why: str


def inapplicable(settings: Settings) -> str | None:
    """Why outputs can't be compared in this run, or None."""
    if settings.model.weights == "dummy":
        return "dummy weights: their output hardly depends on the prompt, so it shows nothing"
    if settings.workload.temperature > 0:
        return f"sampled at temperature {settings.workload.temperature:g}: only greedy outputs can be compared"
    return None


def is_exact(model: Model) -> bool:
    """Whether outputs must be equal to the last token: float32.

    In 16 bits a near-tie may turn, with batch-invariant kernels as well (docs/why-validity.md).
    """
    return model.dtype == "float32"


def sample(batch: Sequence[Request]) -> list[Request]:
    """The measured requests that are compared: first, last and between, and the first of each class besides."""
    measured = [request for request in batch if request.phase == "measured"]
    last = len(measured) - 1
    chosen = {round(index * last / max(1, SAMPLE - 1)) for index in range(SAMPLE)} if measured else set()
    classes = [request.class_name for request in measured]
    have = {classes[index] for index in chosen if index <= last}
    chosen |= {classes.index(name) for name in dict.fromkeys(classes) if name not in have}
    return [measured[index] for index in sorted(chosen) if index <= last]


class Kept:
    """The reference of some requests, on disk under a name made from everything that may change an output.

    `engines` are the classes of a run's engines that are not our own (`contract.foreign`).
    """

    def __init__(
        self, folder: Path, requests: Sequence[Request], settings: Settings, model: Model, engines: Sequence[str] = ()
    ) -> None:
        self._requests, self._timeout = requests, settings.workload.request_timeout_s
        # vLLM compiles its ranking of log-probabilities when it is first asked: up to ten seconds, and exact outputs
        # need none.
        self._alternatives = None if is_exact(model) else MOST_ALTERNATIVES
        self._key = redact.plain(_key(requests, settings, model)) | {"alternatives": self._alternatives}
        if engines:
            self._key["engine.class"] = list(engines)
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{digest[:32]}.json"

    @property
    def lock(self) -> filelock.BaseFileLock:
        """To be held while it is looked for or made."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.path.with_suffix(".lock"))

    def make(self, engine: Engine, loop: EventLoop, run_id: str) -> None:
        """Serve the requests one by one on `engine`, whose prefix cache must be empty. Raises EngineFailure."""
        outputs = {
            request.sha256: loop.run(_alone(engine, request, self._alternatives, self._timeout))
            for request in self._requests
        }
        store.write(self.path, ReferenceRecord(run_id=run_id, engine=engine.role, key=self._key, outputs=outputs))

    def read(self) -> Reference:
        """Raises UsageProblem for a file that is corrupt, or a reference of something else."""
        try:
            found = store.read(self.path, ReferenceRecord)
        except UsageProblem as problem:
            raise UsageProblem(f"{problem}; delete this parity reference, and it is made again") from None
        if different := sorted(name for name in self._key if found.key.get(name) != self._key[name]):
            raise UsageProblem(
                f"{self.path} is the parity reference of something else (other {', '.join(different)}): delete it"
            )
        if wrong := self._wrong(found.outputs):
            raise UsageProblem(f"{self.path} is corrupt: {wrong}; delete this parity reference, and it is made again")
        return Reference(found.outputs, f"the {found.engine} engine alone, in run {found.run_id}")

    def _wrong(self, outputs: Mapping[str, OutputRecord]) -> str | None:
        for request in self._requests:
            output, wanted = outputs.get(request.sha256, _NOTHING), request.output_tokens
            counts = len(output.token_ids), len(output.alternatives)
            if counts != (wanted, wanted if self._alternatives else 0):
                return f"{counts[0]} tokens with {counts[1]} alternatives where {wanted} were asked for"
        return None


_NOTHING = OutputRecord(token_ids=(), alternatives=())


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an output first differs from its reference. After a near-tie (`tie`) the texts legitimately diverge: the
    rest is not compared.

    `gap`: nats by which the reference preferred its own token, told by `how`; at least that where it listed no other.
    """

    position: int
    what: str
    tie: bool
    gap: float = 0.0
    how: str = ""

    @property
    def told(self) -> str:
        return f"{self.what} ({self.how})" if self.how else self.what


def alike(outputs: Iterable[OutputRecord]) -> bool:
    """Whether several prompts all have the same greedy tokens: then these depend on none of them."""
    tokens = [output.token_ids for output in outputs]
    return len(tokens) > 1 and len(set(tokens)) == 1


def first_difference(expected: OutputRecord, timeline: Timeline, exact: bool) -> Difference | None:
    """The first token that is not the reference's; a near-tie is one only where outputs need not be `exact`."""
    for position, (wanted, got) in enumerate(zip(expected.token_ids, timeline.token_ids, strict=True)):
        if wanted == got:
            continue
        what = f"token {position} is {got}, not {wanted}"
        if exact:
            return Difference(position, what, False)
        likely = expected.alternatives[position]
        # A token that is not listed is less likely than all that are.
        gap = likely[str(wanted)] - likely.get(str(got), min(likely.values()))
        how = f"{'' if str(got) in likely else 'more than '}{gap:.3g} nats less likely"
        return Difference(position, what, gap <= NEAR_TIE, gap, how)
    return None


def _key(requests: Sequence[Request], settings: Settings, model: Model) -> JsonObject:
    """Everything that may change an output; the requests' hashes cover prompts, lengths and seeds."""
    engine, machine = settings.engine, devices.describe()
    gpus: list[JsonValue] = [*sorted({gpu["name"] for gpu in machine["gpus"]})]
    return {
        "model": model.label,
        "weights": model.weights_hash,
        "dtype": model.dtype,
        "max_model_len": model.max_length,
        "vllm": manifest.vllm_version(),
        "device": settings.device,
        "hardware": gpus or machine["cpu"]["model"],
        "engine": engine.model_dump(
            mode="json",
            include={"block_size", "max_num_batched_tokens", "enforce_eager", "batch_invariant", "args"},
        ),
        "requests": [request.sha256 for request in requests],
    }


async def _alone(engine: Engine, request: Request, alternatives: int | None, timeout: float) -> OutputRecord:
    leg, tokens = Leg(engine.name), request.output_tokens
    try:
        async with asyncio.timeout(timeout):
            await engine.serve(request, leg, output_tokens=tokens, handoff=None, alternatives=alternatives)
    except TimeoutError:
        raise EngineFailure(f"{engine.role} engine {engine.name!r} gave no parity reference in {timeout:g} s") from None
    except EngineFailure:
        raise
    except Exception as error:  # what vLLM raises for one request
        raise EngineFailure(f"{type(error).__name__}: {error} (on {engine.role} engine {engine.name!r})") from None
    if len(leg.token_ids) != tokens:
        raise EngineFailure(f"{engine.role} engine {engine.name!r} made {len(leg.token_ids)} of {tokens} tokens")
    likely = [{str(token): round(value, 4) for token, value in position.items()} for position in leg.alternatives]
    return OutputRecord(token_ids=tuple(leg.token_ids), alternatives=tuple(likely))
