"""The same random workloads on real CPU engines and on simulated ones, step by step; all of them with

    python -m tests.support.scheduler_parity --workloads 200 --out parity.json

Both sides are vLLM's EngineCore, driven one step at a time: in each round requests that are due arrive, then every
engine takes one step. Real engines are children of this process, as vLLM's NIXL worker is one a process.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of
from context_research.engines.vllm import handoff as handoffs
from context_research.engines.vllm import logs
from context_research.engines.vllm.engine import VllmEngine, sampling
from context_research.engines.vllm.environment import changed
from context_research.engines.vllm.process_lifetime import dies_with_parent
from context_research.hardware.placement import Placement
from context_research.models import hub
from context_research.models.model import Model
from context_research.request import Request
from context_research.settings.schema import Settings
from tests.support.settings import tolerant

BLOCK = 32
"""Tokens of a KV block: the smallest that vLLM's attention on CPU takes."""
LENGTH = 10 * BLOCK
"""Prompt and output of the longest request."""
MODES = ("aggregated", "disaggregated")
_ROUNDS = 20_000
"""Of a workload at most: one that takes more hangs."""
_NOTHING: tuple[Any, ...] = ((), (), (), (), ())


@dataclass(frozen=True, slots=True)
class Shape:
    """An engine's limits; the pool is each engine's own."""

    name: str
    batched_tokens: int
    sequences: int
    blocks: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("narrow", batched_tokens=48, sequences=4, blocks=14),
        Shape("tight", batched_tokens=96, sequences=8, blocks=12),
        Shape("wide", batched_tokens=256, sequences=6, blocks=24),
        Shape("many", batched_tokens=64, sequences=16, blocks=16),
    )
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that arrives in a round, counted from 0."""

    round: int
    request: Request


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine did in one round: the batch in the scheduler's order, and what it did to requests and blocks."""

    batch: tuple[tuple[str, int, int], ...]
    """(request, tokens in this step, tokens computed before) of each request."""
    blocks: tuple[tuple[str, Any], ...]
    """Ids of the blocks newly given to each of them."""
    preempted: tuple[str, ...]
    finished: tuple[str, ...]
    """Requests whose end the workers are told."""
    reads: tuple[tuple[str, Any], ...]
    """KV reads that this step starts, with the blocks read into."""
    received: tuple[str, ...]
    sent: tuple[str, ...]
    """KV reads that its output tells the scheduler have ended, here and on the other side, in the order told."""
    made: tuple[tuple[str, int, str | None, tuple[int, int] | None], ...]
    """(request, tokens, finish reason, prompt tokens from the prefix cache and from elsewhere) of each output."""
    free: int
    """Blocks in the pool that nobody holds, afterwards."""


@dataclass(slots=True)
class Stepped:
    """A Step (None: the engine had nothing to do), the handoffs of prompts that it ended, and whether more is to do."""

    step: Step | None
    handoffs: dict[str, dict[str, Any]]
    busy: bool
    ended: tuple[Sequence[str], Sequence[str]] = ((), ())
    """KV reads (received, sent) that the engine's workers had found to have ended when this step's batch was made; with
    asynchronous scheduling its scheduler is told a step later."""


class Core:
    """One EngineCore, real or simulated."""

    def __init__(self, core: Any, executor: Any = None) -> None:
        self.core, self._executor = core, executor
        self._scheduled: Any = _NOTHING
        self._transfers: Any = None
        self._ended: tuple[Sequence[str], Sequence[str]] = ((), ())
        self._watch()

    def _watch(self) -> None:
        scheduler = self.core.scheduler
        schedule, update = scheduler.schedule, scheduler.update_from_output

        def watched_schedule(*args: Any) -> Any:
            output = schedule(*args)
            self._scheduled = _scheduled(output)
            return output

        def watched_update(scheduled: Any, output: Any) -> Any:
            self._transfers = output.kv_connector_output
            return update(scheduled, output)

        scheduler.schedule, scheduler.update_from_output = watched_schedule, watched_update
        if self._executor is not None:
            found = self._executor._transfers

            def watched_transfers(scheduled: Any) -> Any:
                told = found(scheduled)
                self._ended = _reads(told)
                return told

            self._executor._transfers = watched_transfers

    def blocks(self) -> int:
        return int(self.core.scheduler.kv_cache_manager.block_pool.num_gpu_blocks)

    def free(self) -> int:
        return int(self.core.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    def add(self, request: Request, output_tokens: int, handoff: Mapping[str, Any] | None) -> None:
        from vllm.v1.request import Request as CoreRequest

        made = CoreRequest(
            request.id,
            list(request.prompt),
            sampling(request, output_tokens, handoff),
            None,
            arrival_time=0.0,
            block_hasher=self.core.request_block_hasher,
        )
        self.core.add_request(made)

    def step(self, told: tuple[Sequence[str], Sequence[str]] | None = None) -> Stepped:
        """`told` are the KV reads (received, sent) that have ended; a real engine finds them by itself."""
        if not self._busy():
            return Stepped(None, {}, False)
        if self._executor is not None:
            self._executor.batches.clear()
        if told is not None:
            self._executor.received, self._executor.sent = map(dict.fromkeys, told)
        self._scheduled, self._transfers, self._ended = _NOTHING, None, ((), ())
        outputs, computed = self.core.step_fn()
        made = [output for some in (outputs or {}).values() for output in some.outputs]
        found = self._transfers
        step = Step(
            *self._scheduled,
            received=_reads(found)[0],
            sent=_reads(found)[1],
            made=tuple(map(_made, made)),
            free=self.free(),
        )
        busy = self._busy()
        if self._executor is None and busy and not computed:
            time.sleep(0.001)  # as EngineCore's own loop does, for NIXL's threads
        ended = {output.request_id: output.kv_transfer_params for output in made if output.kv_transfer_params}
        # Of real engines, which have no asynchronous scheduling here, the scheduler is told in the same step.
        return Stepped(step, ended, busy, _reads(found) if self._executor is None else self._ended)

    def _busy(self) -> bool:
        return bool(self.core.scheduler.has_requests() or self.core.batch_queue)

    def reset(self) -> bool:
        """Empty the prefix cache. False if somebody still holds a block."""
        return bool(self.core.reset_prefix_cache()) and self.free() == self.blocks() - 1  # one is vLLM's null block

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.core.shutdown()


class Remote:
    """A Core in a child process, by the same calls."""

    def __init__(self, *engine: Any) -> None:
        fork = multiprocessing.get_context("fork")
        self._calls, theirs = fork.Pipe()
        with dies_with_parent() as parent, logs.to_file(engine[3]), changed(parent):
            self._process = fork.Process(target=_serve, args=(theirs, *engine), daemon=True)
            self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Until it has started."""
        self._answer()

    def _answer(self) -> Any:
        answer = self._calls.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self._calls.send((name, args))
            return self._answer()

        return call

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it may not have started, or have died
            self._calls.send(("close", ()))
            self._answer()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(calls: Any, settings: Settings, model: Model, placement: Placement, log: Path) -> None:
    """The child: start a real core, then answer calls."""
    try:
        core = _real(settings, model, placement, log)
    except BaseException as error:
        calls.send(RuntimeError(f"real engine {placement.spec.name!r} could not start: {error!r}, see {log}"))
        return
    calls.send(None)
    while True:
        name, args = calls.recv()
        try:
            calls.send(getattr(core, name)(*args))
        except Exception as error:
            calls.send(RuntimeError(f"{name} on real engine {placement.spec.name!r}: {error!r}, see {log}"))
        if name == "close":
            return


def _real(settings: Settings, model: Model, placement: Placement, log: Path) -> Core:
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.abstract import Executor

    described = settings.serving.handoff
    connector = handoffs.connector(described, placement.spec.role, settings.device) if described else None
    engine = VllmEngine(settings, model, placement, log, connector)
    for name, value in engine.environment().items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    config = engine.resolve()
    return Core(EngineCore(config, Executor.get_class(config), log_stats=True))


def _simulated(
    backend: Backend, model: Model, placement: Placement, log: Path, asynchronous: bool, strided: bool
) -> Core:
    """The core of the project's own simulated engine; the engine around it, with its time, stays unused."""
    engine: Any = backend.make_engine(model, placement, log)
    if asynchronous:
        config = engine._real.resolve()
        config.scheduler_config.async_scheduling = True
        engine._real.resolve = lambda: config
    engine.start()
    engine._executor._read = lambda *_: None
    if strided:
        from tests.support.strided_core import StridedCore

        return StridedCore(engine._core, engine._executor)
    return Core(engine._core, engine._executor)


def settings_of(mode: str, shape: Shape, **more: Any) -> Settings:
    return tolerant(
        mode,
        model__max_model_len=LENGTH,
        engine__block_size=BLOCK,
        engine__max_num_batched_tokens=shape.batched_tokens,
        engine__max_num_seqs=shape.sequences,
        engine__enforce_eager=True,
        engine__kv_cache_memory_bytes=shape.blocks * BLOCK * 4096 * (2 if mode == "disaggregated" else 1),
        **more,
    )


@contextlib.contextmanager
def real_engines(mode: str, shape: Shape, folder: Path) -> Iterator[list[Any]]:
    """The serving mode's cores: the first gets the requests."""
    if mode == "aggregated":  # one thread is faster at batches of these sizes, above all on a busy machine
        settings = settings_of(mode, shape, devices=[min(os.sched_getaffinity(0))])
    else:
        settings = settings_of(mode, shape, serving__handoff__connector_module="tests.support.late_nixl")
    model = hub.resolve(settings.model)
    with contextlib.ExitStack() as stack:
        cores = []
        for placement in backend_of(settings).placements:
            cores.append(Remote(settings, model, placement, folder / f"{placement.spec.name}-{shape.name}.log"))
            stack.callback(cores[-1].close)
        for core in cores:
            core.wait()
        yield cores


@contextlib.contextmanager
def simulated_engines(
    mode: str, shape: Shape, folder: Path, *, asynchronous: bool = False, strided: bool = False
) -> Iterator[list[Core]]:
    """The same, simulated: `asynchronous` as on GPUs, where the next batch is scheduled while one is computed.

    `strided`: decode steps are taken in strides (strided_core.py), for which `drive` must know what is to come.
    """
    settings = settings_of(mode, shape, backend="simulated", device_profile="cpu-2core")
    model = hub.resolve(settings.model)
    with contextlib.ExitStack() as stack:
        cores, backend = [], backend_of(settings)
        for placement in backend.placements:
            log = folder / f"simulated-{placement.spec.name}-{shape.name}.log"
            cores.append(_simulated(backend, model, placement, log, asynchronous, strided))
            stack.callback(cores[-1].close)
        yield cores


def read_at_once(prefill: Core, decode: Core) -> None:
    """Let every KV read of two simulated cores end with the batch that starts it."""

    def read(request: str, meta: Any) -> None:
        decode._executor.received[request] = None
        prefill._executor.sent[meta.remote.request_id] = None

    decode._executor._read = read


def workload(seed: int) -> list[Arrival]:
    """Requests in bursts: some share the beginnings of their prompts, some are sent again word for word."""
    rng = np.random.default_rng(seed)
    beginnings = [rng.integers(256, 16384, size=LENGTH).tolist() for _ in range(rng.integers(1, 4))]
    made: list[Arrival] = []
    now = 0
    for index in range(rng.integers(4, 14)):
        now += int(rng.choice([0, 0, 1, 3, rng.integers(1, 40)]))
        output = int(rng.integers(1, 97))
        length = int(rng.integers(2, min(LENGTH - output, 200) + 1))
        if made and rng.random() < 0.1:
            prompt = list(made[rng.integers(len(made))].request.prompt)
            output = min(output, LENGTH - len(prompt))
        else:
            shared = int(rng.integers(0, length)) if rng.random() < 0.6 else 0
            start = beginnings[rng.integers(len(beginnings))][:shared]
            prompt = [*start, *rng.integers(256, 16384, size=length - shared).tolist()]
        request = Request(f"w{seed}-{index}", prompt, output, seed=index, temperature=0.0, sha256="")
        made.append(Arrival(now, request))
    return made


def drive(
    cores: Sequence[Any],
    arrivals: Sequence[Arrival],
    like: list[list[Stepped]] | None = None,
    after: Callable[[Sequence[Any]], None] = lambda _: None,
) -> list[Any]:
    """Every round's steps, one for each engine. `like`: those of a real run, from which ended KV reads are taken.

    `after` is called after every round.

    With two cores the first has the prompts and hands them over, within the round, to the second.
    """
    rounds: list[list[Stepped]] = []
    requests = {arrival.request.id: arrival.request for arrival in arrivals}
    split, last = len(cores) == 2, max(arrival.round for arrival in arrivals)
    comes = [_comes(index, arrivals, like) if like is not None else [] for index in range(len(cores))]
    for now in itertools.count():
        for arrival in arrivals:
            if arrival.round == now:
                tokens, asked = (1, handoffs.PREFILL_PARAMETERS) if split else (arrival.request.output_tokens, None)
                cores[0].add(arrival.request, tokens, asked)
        steps: list[Stepped] = []
        for index, core in enumerate(cores):
            done = like[now][index] if like is not None and now < len(like) else None
            told = done.ended if done is not None and done.step is not None else None
            if like is not None and hasattr(core, "strided"):
                next_one = next((each for each in comes[index] if each > now), len(like))
                steps.append(core.step(told, quiet=max(1, next_one - now)))
            else:
                steps.append(core.step(told))
            if split and index == 0:
                for name, answer in steps[0].handoffs.items():
                    cores[1].add(requests[name], requests[name].output_tokens, handoffs.guarded(answer))
        rounds.append(steps)
        after(cores)
        if now >= last and not any(stepped.busy for stepped in steps):
            return rounds
        if like is not None and now >= len(like):
            return rounds  # it went another way
        if now > _ROUNDS:
            raise RuntimeError(f"{arrivals[0].request.id} and others have no end")
    raise AssertionError


def _comes(index: int, arrivals: Sequence[Arrival], like: list[list[Stepped]]) -> list[int]:
    """Rounds in which a request comes to the engine, or it is told of an ended read."""
    told = {now for now, each in enumerate(like) if any(each[index].ended)}
    if index == 0:
        return sorted(told | {arrival.round for arrival in arrivals})
    return sorted(told | {now for now, each in enumerate(like) if each[0].handoffs})


@dataclass(slots=True)
class Outcome:
    """One workload on both sides: what the real engines made of it, and where the simulated ones first did not."""

    mode: str
    shape: str
    seed: int
    requests: int = 0
    chunked: int = 0
    """Requests of which a step computed a part of the prompt and more was left."""
    hits: int = 0
    """Requests that found a part of their prompt in an engine's own prefix cache."""
    preemptions: int = 0
    reads: int = 0
    late: int = 0
    """Of them, those that a later step than the one that started them told the scheduler of."""
    steps: int = 0
    """Batches that computed something, of all engines; `rounds` counts those of nothing too."""
    rounds: int = 0
    strided: int = 0
    """Steps that simulated engines took in strides of two or more, when they served the workload once more."""
    differs: str | None = None
    problems: list[str] = field(default_factory=list)


def compare(
    mode: str, shape: Shape, seed: int, real: Sequence[Any], simulated: Sequence[Core], strided: Sequence[Any]
) -> Outcome:
    """Serve one workload on all sides, which must be idle and have the same past."""
    arrivals = workload(seed)
    outcome = Outcome(mode, shape.name, seed, requests=len(arrivals))
    theirs = drive(real, arrivals)
    ours = drive(simulated, arrivals, theirs)
    before = sum(core.strided for core in strided)
    at_once = drive(strided, arrivals, theirs)
    outcome.strided = sum(core.strided for core in strided) - before
    sides = (("real", real, theirs), ("simulated", simulated, ours), ("in strides", strided, at_once))
    for side, cores, rounds in sides:
        outcome.problems += [f"{side}: a block is still held" for core in cores if not core.reset()]
        outcome.problems += [f"{side}: {problem}" for problem in incomplete(arrivals, rounds)]
    count(outcome, arrivals, theirs)
    outcome.differs = difference(theirs, ours) or difference(theirs, at_once)
    return outcome


def difference(theirs: list[list[Stepped]], ours: list[list[Stepped]]) -> str | None:
    """Where two runs first differ."""
    for now, (real, simulated) in enumerate(zip(theirs, ours, strict=False)):
        for index, (one, other) in enumerate(zip(real, simulated, strict=True)):
            if one.step != other.step or one.busy != other.busy:
                return f"round {now}, engine {index}: real {one.step}, simulated {other.step}"
    return None if len(theirs) == len(ours) else f"{len(theirs)} rounds, simulated {len(ours)}"


def incomplete(arrivals: Sequence[Arrival], rounds: list[list[Stepped]]) -> Iterator[str]:
    got: dict[str, int] = {}
    for steps in rounds:
        for name, tokens, _, _ in steps[-1].step.made if steps[-1].step else ():
            got[name] = got.get(name, 0) + tokens
    for arrival in arrivals:
        if got.get(arrival.request.id) != arrival.request.output_tokens:
            yield f"{arrival.request.id} got {got.get(arrival.request.id)} of {arrival.request.output_tokens} tokens"


def count(outcome: Outcome, arrivals: Sequence[Arrival], rounds: list[list[Stepped]]) -> None:
    prompts = {arrival.request.id: len(arrival.request.prompt) for arrival in arrivals}
    chunked, hits = set(), set()
    outcome.rounds = len(rounds)
    for index, step in ((index, each.step) for steps in rounds for index, each in enumerate(steps)):
        if step is None:
            continue
        outcome.steps += bool(step.batch)
        outcome.preemptions += len(step.preempted)
        outcome.reads += len(step.reads)
        outcome.late += len({name for name, _ in step.reads}.difference(step.received))
        chunked |= {(index, name) for name, new, before in step.batch if new + before < prompts[name]}
        hits |= {(index, name) for name, _, _, cached in step.made if cached and cached[0]}
    outcome.chunked, outcome.hits = len(chunked), len(hits)


def _scheduled(output: Any) -> tuple[Any, ...]:
    """The first five fields of a Step."""
    cached, metadata = output.scheduled_cached_reqs, output.kv_connector_metadata
    before = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    before.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    blocks = [(new.req_id, _plain(new.block_ids)) for new in output.scheduled_new_reqs]
    blocks += [(name, _plain(ids)) for name, ids in zip(cached.req_ids, cached.new_block_ids, strict=True) if ids]
    reads = metadata.reqs_to_recv if metadata is not None else {}
    return (
        tuple((name, tokens, before[name]) for name, tokens in output.num_scheduled_tokens.items()),
        tuple(blocks),
        tuple(sorted(output.preempted_req_ids or ())),
        tuple(sorted(output.finished_req_ids)),
        tuple((name, _plain(read.local_block_ids)) for name, read in reads.items()),
    )


def _reads(told: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ended reads (received, sent) that a worker's output tells of."""
    return tuple((told and told.finished_recving) or ()), tuple((told and told.finished_sending) or ())


def _made(output: Any) -> tuple[str, int, str | None, tuple[int, int] | None]:
    stats, reason = output.prefill_stats, output.finish_reason
    cached = None if stats is None else (stats.num_local_cached_tokens, stats.num_external_cached_tokens)
    return output.request_id, len(output.new_token_ids), None if reason is None else str(reason), cached


def _plain(blocks: Any) -> Any:
    return tuple(map(tuple, blocks))


def run(mode: str, shape: Shape, seeds: Sequence[int], folder: Path) -> list[Outcome]:
    """Workloads one after another on the same engines, with empty prefix caches. The first one only warms them up."""
    with (
        real_engines(mode, shape, folder) as real,
        simulated_engines(mode, shape, folder) as simulated,
        simulated_engines(mode, shape, folder, strided=True) as strided,
    ):
        pools = [core.blocks() for core in (*real, *simulated, *strided)]
        assert set(pools) == {shape.blocks}, pools
        return [compare(mode, shape, seed, real, simulated, strided) for seed in (1_000_000, *seeds)]


def totals(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {
        "workloads": len(outcomes),
        "with_chunked_prefills": sum(one.chunked > 0 for one in outcomes),
        "with_prefix_hits": sum(one.hits > 0 for one in outcomes),
        "with_preemptions": sum(one.preemptions > 0 for one in outcomes),
        "with_all_three": sum(min(one.chunked, one.hits, one.preemptions) > 0 for one in outcomes),
        "requests": sum(one.requests for one in outcomes),
        "preemptions": sum(one.preemptions for one in outcomes),
        "kv_reads": sum(one.reads for one in outcomes),
        "late_kv_reads": sum(one.late for one in outcomes),
        "steps": sum(one.steps for one in outcomes),
        "rounds": sum(one.rounds for one in outcomes),
        "steps_in_strides": sum(one.strided for one in outcomes),
        "equal": sum(one.differs is None for one in outcomes),
        "with_problems": sum(bool(one.problems) for one in outcomes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the batches of real and of simulated engines.")
    parser.add_argument("--workloads", type=int, default=200, help="of both serving modes together")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--out", type=Path, help="JSON file for every workload's outcome")
    asked = parser.parse_args()
    outcomes: list[Outcome] = []
    kinds = list(itertools.product(asked.modes, SHAPES.values()))
    with tempfile.TemporaryDirectory() as folder:
        for index, (mode, shape) in enumerate(kinds):
            began = time.perf_counter()
            some = run(mode, shape, range(index, asked.workloads, len(kinds)), Path(folder))[1:]
            print(f"{mode} {astuple(shape)}, {time.perf_counter() - began:.0f} s: {totals(some)}", flush=True)
            for one in some:
                for problem in (*one.problems, *filter(None, [one.differs])):
                    print(f"  workload {one.seed}: {problem}", flush=True)
            outcomes += some
    summary = {mode: totals([one for one in outcomes if one.mode == mode]) for mode in asked.modes}
    print(json.dumps(summary, indent=1))
    if asked.out is not None:
        shapes = [asdict(shape) for shape in SHAPES.values()]
        told = {"shapes": shapes, "totals": summary, "workloads": [asdict(one) for one in outcomes]}
        asked.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(any(one.differs or one.problems for one in outcomes))


if __name__ == "__main__":
    from tests.support import scheduler_parity  # its classes are those that strided_core.py has, and this one's are not

    scheduler_parity.main()
