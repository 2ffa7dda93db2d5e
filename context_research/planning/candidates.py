"""The ways to use so many GPUs: replicas, tensor parallelism, every ratio of prefill to decode; chunk sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from context_research.settings.schema import EngineSpec, Handoff, Role, Serving, Settings


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way. `name` is a file's name too: ``8x``, ``4x-tp2``, ``3p5d``."""

    name: str
    serving: Serving
    tensor_parallel: int
    chunk: int
    """Tokens of a step, at most: engine.max_num_batched_tokens."""

    @property
    def key(self) -> tuple[str, int]:
        """No other of a plan has it."""
        return self.name, self.chunk

    @property
    def devices(self) -> int:
        return sum(len(spec.devices or ()) for spec in self.serving.engines)

    def settings(self, settings: Settings) -> Settings:
        """What a run of it has, others as given."""
        devices = tuple(device for spec in self.serving.engines for device in spec.devices or ())
        engine = settings.engine.model_copy(update={"max_num_batched_tokens": self.chunk})
        return settings.model_copy(update={"serving": self.serving, "devices": devices, "engine": engine})


def series(devices: int, chunks: Sequence[int], heads: int) -> Iterator[list[Candidate]]:
    """Of each topology one for each chunk size.

    `heads`: of the model's attention; a tensor-parallel engine has an equal part of them on each GPU.
    """
    for parallel in _parallel(devices, heads):
        yield [_replicas(devices, parallel, chunk) for chunk in chunks]
    for prefill in range(1, devices):
        yield [_split(prefill, devices - prefill, chunk) for chunk in chunks]


def _parallel(devices: int, heads: int) -> Iterator[int]:
    """Powers of two, as tensor parallelism is used; they share out the GPUs and the heads."""
    parallel = 1
    while parallel <= devices:
        if devices % parallel == 0 and heads % parallel == 0:
            yield parallel
        parallel *= 2


def _replicas(devices: int, parallel: int, chunk: int) -> Candidate:
    count = devices // parallel
    specs = tuple(
        EngineSpec(name=f"replica-{n}", role="aggregated", devices=tuple(range(n * parallel, (n + 1) * parallel)))
        for n in range(count)
    )
    name = f"{count}x" + (f"-tp{parallel}" if parallel > 1 else "")
    return Candidate(name, Serving(mode="aggregated", engines=specs), parallel, chunk)


def _split(prefill: int, decode: int, chunk: int) -> Candidate:
    roles: list[Role] = ["prefill" if n < prefill else "decode" for n in range(prefill + decode)]
    specs = tuple(EngineSpec(name=f"{role}-{n}", role=role, devices=(n,)) for n, role in enumerate(roles))
    serving = Serving(mode="disaggregated", engines=specs, handoff=Handoff())
    return Candidate(f"{prefill}p{decode}d", serving, 1, chunk)
