"""One running engine and our measuring path on it: what the scripts here take their passes from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from context_research.backends.registry import backend_of
from context_research.engines.loop import process_loop
from context_research.engines.vllm.engine import VllmEngine
from context_research.errors import EngineFailure
from context_research.measure import metrics
from context_research.measure.case import measure
from context_research.models import hub
from context_research.models.model import Model
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.case import Case, point
from ratios import Bar, Comparison

_RESET_S = 5.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One batch served, ramp and drain included: seconds in all, from sending to first tokens, and between tokens."""

    seconds: float
    tokens: int
    ttfts: list[float]
    gaps: list[float]
    late: bool = False
    """The validity check `client` failed, which the bare loop has none of. Such a pass counts all the same: being late
    is part of what a client costs."""


def aggregated(settings: Settings, model: Model, log: Path) -> tuple[Topology, VllmEngine]:
    """The aggregated topology as the plugin builds it, and its one engine; not started."""
    topology = build.build(backend_of(settings), lambda placement: VllmEngine(settings, model, placement, log))
    engine = topology.decoders[0]
    assert isinstance(engine, VllmEngine)
    return topology, engine


@dataclass(frozen=True, slots=True)
class Bench:
    """A running engine and the settings of what it serves.

    The workload's `requests` are those that each of a load's `concurrency` slots serves in one pass.
    """

    settings: Settings
    model: Model
    topology: Topology
    engine: VllmEngine

    def load(self, concurrency: int) -> str:
        """What a pass serves, in words."""
        workload = self.settings.workload
        return (
            f"{workload.prompt_lengths[0]} in, {workload.output_tokens} out, {concurrency} at a time × "
            f"{workload.requests}"
        )

    def case(self, concurrency: int, pair: int) -> Case:
        """What a pass serves, with a seed of the pair's own: the same prompts on both sides, others in the next pair.

        A late client ends nothing: it is counted and told (see Pass).
        """
        workload = self.settings.workload
        workload = workload.model_copy(update={"requests": workload.requests * concurrency, "warmup_requests": 0})
        own = {"workload": workload, "seed": (self.settings.seed or 0) + pair, "allow_invalid": ("client", "clock")}
        return point(self.settings.model_copy(update=own), workload.prompt_lengths[0], concurrency)

    def measure(self, concurrency: int, pair: int) -> Pass:
        """A pass on our path. Raises EngineFailure for an invalid one."""
        result = measure(self.case(concurrency, pair), self.model, self.topology, repeats=1)
        if result.failure:
            raise EngineFailure(result.failure)
        whole = result.whole[0]
        return Pass(
            whole.seconds,
            whole.output_tokens,
            [timeline.token_times[0] - timeline.sent for timeline in whole.timelines],
            [gap for timeline in whole.timelines for gap in metrics.itl(timeline)],
            late=any(check.check == "client" and check.status == "fail" for check in result.checks),
        )

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache. It refuses while blocks are held, which ends a moment after the last request."""
        deadline = time.perf_counter() + _RESET_S
        while not process_loop().run(self.engine.reset_prefix_cache()):
            if time.perf_counter() > deadline:
                raise EngineFailure(f"the prefix cache could not be reset within {_RESET_S:g} s")
            time.sleep(0.05)


@contextlib.contextmanager
def started(settings: Settings, log: Path) -> Iterator[Bench]:
    """An engine of the settings' model, which runs while this is open."""
    model = hub.download(hub.resolve(settings.model))
    topology, engine = aggregated(settings, model, log)
    try:
        topology.start()
        yield Bench(settings, model, topology, engine)
    finally:
        topology.close()


def compared(
    results: Sequence[tuple[Pass, Pass]],
    load: str,
    name: str,
    unit: str,
    figure: Callable[[Pass], float],
    bar: Bar | None = None,
) -> Comparison:
    """One figure of both sides' passes, in pairs."""
    late = sum(a.late or b.late for a, b in results)
    return Comparison(name, load, unit, [figure(a) for a, _ in results], [figure(b) for _, b in results], bar, late)
