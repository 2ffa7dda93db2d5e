"""A simulated core that takes decode steps in strides, driven by scheduler_parity.py; and all of a core's state."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from context_research.engines.simulated.stride import Decodes, Strides, known
from tests.support.scheduler_parity import Core, Step, Stepped

_OWN = {
    "events",
    "engine_id",
    "side_channel_host",
    "kv_transfer_params",
    "_heartbeat_by_engine",
    "_heartbeat_req_engine",
}
"""Attributes that hold moments of the wall's clock or an engine's name."""


class StridedCore(Core):
    """Steps that were taken at once are told one in a round, each as it would have been by itself."""

    def __init__(self, core: Any, executor: Any) -> None:
        super().__init__(core, executor)
        assert known(core)
        self._strides = Strides(core, executor)
        self._taken: deque[Stepped] = deque()
        self.strided = 0
        """Steps that were taken in strides of two or more."""

    @property
    def between(self) -> bool:
        """Whether every step that was taken has been told."""
        return not self._taken

    def step(self, told: tuple[Sequence[str], Sequence[str]] | None = None, quiet: int = 1) -> Stepped:
        """Nothing comes to this core for `quiet` rounds, this one included."""
        if not self._taken:
            ended = any(told or ()) or self._executor.sent or self._executor.received
            if ended or (decodes := self._strides.ahead()) is None:
                return super().step(told)
            steps = min(decodes.steps, quiet)
            self.strided += steps * (steps > 1)
            self._taken.extend(self._take(decodes, steps))
        return self._taken.popleft()

    def _take(self, decodes: Decodes, steps: int) -> Iterator[Stepped]:
        scheduler = self.core.scheduler
        (manager,) = scheduler.kv_cache_manager.coordinator.single_type_managers
        size, free, blocks = manager.block_size, self.free(), self.blocks() - 1
        before = [(each.request_id, each.num_computed_tokens) for each in scheduler.running]
        held = {name: len(manager.req_to_blocks[name]) for name, _ in before}
        usage = self._strides.take(steps)
        assert decodes.requests == [name for name, _ in before]
        for step in range(steps):
            given = []
            for name, computed in before:
                number = (computed + step) // size
                if (computed + step) % size == 0 and number >= held[name]:
                    given.append((name, ((manager.req_to_blocks[name][number].block_id,),)))
            free -= len(given)
            assert usage[step] == 1.0 - free / blocks
            batch = tuple((name, 1, computed + step) for name, computed in before)
            made = tuple((name, 1, None, None) for name, _ in before)
            yield Stepped(Step(batch, tuple(given), (), (), (), (), (), made, free), {}, busy=True)
        assert free == self.free()


def state(core: Core) -> dict[str, Any]:
    """All that a core will decide by, as plain data: of two in the same state it is equal."""
    scheduler = core.core.scheduler
    (manager,) = scheduler.kv_cache_manager.coordinator.single_type_managers
    pool, queue = manager.block_pool, core.core.batch_queue
    executor: Any = core._executor
    connector = getattr(scheduler.connector, "connector_scheduler", None)
    return {
        "scheduler": _simple(scheduler),
        "requests": {name: _simple(request) for name, request in scheduler.requests.items()},
        "queues": [
            [request.request_id for request in some]
            for some in (scheduler.running, scheduler.waiting, scheduler.kv_holding_waiting)
        ],
        "deferred": sorted(request.request_id for request in scheduler.deferred_waiting),
        "free": [block.block_id for block in pool.free_block_queue.get_all_free_blocks()],
        "blocks": [(block.ref_cnt, block.block_hash, block.block_hash_num_tokens) for block in pool.blocks],
        "cache": [
            (key, list(found) if isinstance(found, dict) else [found.block_id])
            for key, found in pool.cached_block_hash_to_block._cache.items()
        ],
        "held": {name: [block.block_id for block in some] for name, some in manager.req_to_blocks.items()},
        "manager": _simple(manager),
        "in flight": None if queue is None else [list(each[1].num_scheduled_tokens.items()) for each in queue],
        "batches": None if queue is None else [batch for batch, _ in executor.batches],
        "prompts": dict(executor._prompts),
        "connector": _simple(connector),
    }


def _simple(thing: Any) -> dict[str, Any]:
    """Its attributes that are plain data, all through; not moments of the wall's clock."""
    return (
        {
            name: deepcopy(value)
            for name, value in vars(thing).items()
            if not name.endswith("_time") and name not in _OWN and _is_simple(value)
        }
        if thing is not None
        else {}
    )


def _is_simple(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_simple, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset | deque):
        return all(map(_is_simple, value))
    return value is None or isinstance(value, int | str | bytes)


def unequal(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two states differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from unequal(one.get(key), other.get(key), f"{path}.{key}")
    elif one != other:
        yield f"{path}: {one} is not {other}"
