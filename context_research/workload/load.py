"""What a case's requests are, drawn from its seed before any clock starts: lengths, classes, phases, moments.

Prompts are made of it by prompts.py. Nothing here depends on how requests are served, so that both arms of a pair get
the same ones at the same moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from context_research.errors import UsageProblem
from context_research.models.capacity import Load
from context_research.request import Phase
from context_research.settings.workload import LoadClass, Workload
from context_research.workload import lengths, traces
from context_research.workload.case import Case

TAIL = 1.0
"""Of the measured window: for so long arrivals go on after it, at most, while its last requests are served."""
LONGEST = (1 << 31) - 1
"""Tokens of a prompt or an output."""
MOST = 10_000_000
"""Requests of a pass: more are a mistake, and would take the machine's memory."""
_ROUNDS = 8
"""Of a closed loop of varying lengths: so many times its concurrency follow after what is measured, at most."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One request before its prompt is made. `due`: seconds from the start of its pass; None in a closed loop."""

    prompt_tokens: int
    output_tokens: int
    phase: Phase = "measured"
    due: float | None = None
    class_name: str = ""


def planned(case: Case, repeat: int | None) -> list[Planned]:
    """The requests of one repeat, or of the warm-up (`repeat` None), in the order in which they are sent.

    Raises UsageProblem: a trace that can't be read, or has no row to replay; a window in which nothing is due.
    """
    workload = case.settings.workload
    _check_count(case)
    if repeat is None:
        return [replace(each, phase="warmup") for each in _drawn(case, "warmup", workload.warmup_requests)]
    if workload.arrivals == "replay":
        assert workload.trace is not None  # validated
        rows = traces.replayed(workload.trace, np.random.default_rng(case.seed(f"ticks{repeat}")))
        if strange := sorted(set(workload.classes) - set(rows.class_names)):
            raise UsageProblem(f"classes.{strange[0]}: no replayed row of {workload.trace.file} has that class")
        if workload.window_s is not None and workload.warmup_s + workload.window_s > rows.seconds:
            raise UsageProblem(
                f"the window ends {workload.warmup_s + workload.window_s:g} s after the start, the slice of "
                f"{workload.trace.file} after {rows.seconds:g} s: a shorter workload.window_s, or a longer slice"
            )
        fields = (rows.prompt_tokens.tolist(), rows.output_tokens.tolist(), rows.at.tolist(), rows.class_names)
        some = [Planned(p, o, due=at, class_name=name) for p, o, at, name in zip(*fields, strict=True)]
        return _phased(workload, some)
    if workload.arrivals == "open":
        moments = arrivals(workload, np.random.default_rng(case.seed(f"arrivals{repeat}")))
        some = _drawn(case, f"repeat{repeat}", len(moments))
        return _phased(workload, [replace(each, due=at) for each, at in zip(some, moments.tolist(), strict=True)])
    phases = in_a_pass(workload, case.concurrency)
    some = _drawn(case, f"repeat{repeat}", len(phases))
    return [replace(each, phase=phase) for each, phase in zip(some, phases, strict=True)]


def _check_count(case: Case) -> None:
    """Raises UsageProblem: more requests than are drawn, prompts longer than are counted."""
    workload = case.settings.workload
    count: float = max(workload.warmup_requests, workload.requests)
    if workload.rate is not None and workload.window_s is not None:
        count = max(count, workload.rate * (workload.warmup_s + workload.window_s * (1 + TAIL)))
    if count > MOST:
        raise UsageProblem(
            f"over {MOST:,} requests in a pass: a lower workload.rate, a shorter window_s, fewer requests"
        )
    if (case.prompt_tokens or 0) > LONGEST:
        raise UsageProblem(f"a prompt of over {LONGEST:,} tokens: no model takes it (--prompt-lengths)")


def _drawn(case: Case, part: str, count: int) -> list[Planned]:
    """`count` requests of the load's classes and lengths."""
    workload, rng = case.settings.workload, np.random.default_rng(case.seed(f"{part} lengths"))
    if not count:
        return []
    if workload.trace is not None:  # the warm-up of a replay: any of its rows
        rows = traces.replayed(workload.trace, None)
        chosen = rng.integers(len(rows.at), size=count)
        names: Sequence[str] = [rows.class_names[row] for row in chosen]
        prompts, outputs = rows.prompt_tokens[chosen], rows.output_tokens[chosen]
    elif workload.classes:
        shares = np.array([each.share for each in workload.classes.values()])
        of = rng.choice(len(shares), size=count, p=shares / shares.sum())
        names = [list(workload.classes)[index] for index in of]
        prompts, outputs = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for index, each in enumerate(workload.classes.values()):
            mine = np.flatnonzero(of == index)
            prompts[mine], outputs[mine] = _of_class(each, workload, mine.size, rng)
    else:
        names = [""] * count
        prompts = np.full(count, case.prompt_tokens)
        outputs = lengths.draw(workload.output_tokens, count, rng)
    if workload.length_spread:
        prompts, outputs = (lengths.spread(each, workload.length_spread, rng) for each in (prompts, outputs))
    of_each = zip(prompts.tolist(), outputs.tolist(), names, strict=True)
    return [Planned(prompt, output, class_name=name) for prompt, output, name in of_each]


def _of_class(
    chosen: LoadClass, workload: Workload, count: int, rng: np.random.Generator
) -> tuple[lengths.Tokens, lengths.Tokens]:
    """Prompts' and outputs' lengths of `count` requests of one class."""
    if chosen.rows is not None:
        rows = traces.read(chosen.rows)
        row = rng.integers(len(rows.at), size=count)
        return rows.prompt_tokens[row], rows.output_tokens[row]
    assert chosen.prompt is not None  # validated
    output = workload.output_tokens if chosen.output is None else chosen.output
    return lengths.draw(chosen.prompt, count, rng), lengths.draw(output, count, rng)


def arrivals(workload: Workload, rng: np.random.Generator) -> NDArray[np.float64]:
    """Moments of an open load in seconds, in order: warm-up, window, tail.

    Gaps are independent draws of a gamma distribution of shape 1 / cv² and mean 1 / rate. They are not rescaled to a
    fixed count over a fixed time, as `vllm bench serve` and inference-perf do: such loads vary less than the process
    that they are named after.
    """
    assert workload.rate is not None  # validated
    assert workload.window_s is not None
    shape, end = workload.cv**-2, workload.warmup_s + workload.window_s * (1 + TAIL)
    moments = np.empty(0)
    while not moments.size or moments[-1] < end:
        gaps = rng.gamma(shape, 1 / (workload.rate * shape), size=max(16, int(workload.rate * end / 4)))
        moments = np.append(moments, (moments[-1] if moments.size else 0.0) + np.cumsum(gaps))
    return moments[moments < end]


class Due(Protocol):
    """Of a request, planned or made, that has a moment of its own."""

    @property
    def due(self) -> float | None: ...


def window(workload: Workload, batch: Sequence[Due]) -> tuple[float, float]:
    """Start and end of the measured window of a timed load, in seconds from the start of the pass."""
    seconds = workload.window_s
    if seconds is None:  # a trace, measured to its end
        seconds = max((each.due or 0.0 for each in batch), default=0.0) - workload.warmup_s
    return workload.warmup_s, workload.warmup_s + seconds


def loads(case: Case) -> list[Load]:
    """What the case asks of the KV cache at its busiest, as far as that is known beforehand.

    Where lengths differ, or nothing bounds what is in flight, that is its longest request, by itself; and, where there
    is a bound, as many of the shortest. Raises UsageProblem as `planned` does.
    """
    workload = case.settings.workload
    output, equal = workload.output_tokens, not workload.length_spread
    if equal and case.prompt_tokens and case.concurrency and isinstance(output, int):
        return [Load(case.prompt_tokens, output, case.concurrency)]
    sent = [each for repeat in range(workload.repeats) for each in planned(case, repeat)]
    longest = {
        max(sent, key=lambda each: each.prompt_tokens),
        max(sent, key=lambda each: each.prompt_tokens + each.output_tokens),
    }
    found = [Load(each.prompt_tokens, each.output_tokens, 1, _source(workload, each)) for each in longest]
    if case.concurrency:
        shortest = (min(each.prompt_tokens for each in sent), min(each.output_tokens for each in sent))
        found.append(Load(*shortest, case.concurrency, "the shortest"))
    return found


def mean_load(case: Case) -> Load | None:
    """A closed loop's requests in flight, each of the mean length; None for equal ones, and where nothing bounds them.

    What an open load has in flight depends on how fast it is served, which is not known beforehand.
    """
    workload = case.settings.workload
    if not case.concurrency or not _varies(workload):
        return None
    sent = planned(case, 0)
    prompt = round(sum(each.prompt_tokens for each in sent) / len(sent))
    output = round(sum(each.output_tokens for each in sent) / len(sent))
    return Load(prompt, output, case.concurrency, "the mean length")


def described(workload: Workload) -> str | None:
    """What is replayed of a trace, in one line: rows, what is left out, what was done to moments. None without one."""
    if (trace := workload.trace) is None:
        return None
    rows = traces.replayed(trace, None)
    told = f"{len(rows.at):,} rows of {trace.file} over {rows.at[-1]:.0f} s"
    if rows.left_out:
        told += f", {rows.left_out:,} left out with prompts over {trace.longest_prompt:,} tokens"
    if rows.tick is not None:
        done = "spread within their tick by the seed" if trace.ticks == "spread" else "left there (ticks: exact)"
        told += f"; moments on a grid of {rows.tick:g} s, {done}"
    return told


def _source(workload: Workload, each: Planned) -> str:
    """Where a request's lengths come from, for messages."""
    if each.class_name:
        return f"class {each.class_name}"
    return f"trace {workload.trace.file}" if workload.trace is not None else ""


def typical(case: Case) -> Planned:
    """The measured request of the first repeat whose prompt is the median one: what stands for the load."""
    measured = [each for each in planned(case, 0) if each.phase == "measured"]
    return sorted(measured, key=lambda each: each.prompt_tokens)[(len(measured) - 1) // 2]


def taken(case: Case) -> traces.Rows | None:
    """What a replay takes of its trace, at the moments that stand there; None without one."""
    trace = case.settings.workload.trace
    return None if trace is None else traces.replayed(trace, None)


def in_a_pass(workload: Workload, concurrency: int | None) -> list[Phase]:
    """The phases of a closed loop's repeat, in the order of arrival; None: the requests alone."""
    return [phase for phase, count in _counts(workload, concurrency).items() for _ in range(count)]


def pass_length(workload: Workload, concurrency: int | None) -> int:
    """How many requests a closed loop's repeat has."""
    return sum(_counts(workload, concurrency).values())


def _counts(workload: Workload, concurrency: int | None) -> dict[Phase, int]:
    measured = max(workload.requests, concurrency or 1)  # fewer would be no load of that concurrency
    if concurrency in (None, 1):
        return {"measured": measured}
    if _varies(workload):  # a long request may be the last
        return {"ramp": concurrency, "measured": measured, "tail": _ROUNDS * concurrency}
    return {"ramp": concurrency, "measured": measured, "drain": concurrency - 1}


def _varies(workload: Workload) -> bool:
    """Whether the requests of a case differ in their lengths."""
    return bool(workload.length_spread or workload.classes) or not isinstance(workload.output_tokens, int)


def _phased(workload: Workload, batch: Sequence[Planned]) -> list[Planned]:
    """Each with its phase: what is due in the warm-up is the window's ramp."""
    begin, end = window(workload, batch)

    def phase(due: float) -> Phase:
        return "ramp" if due < begin else "measured" if due <= end else "tail"

    if not any(phase(each.due or 0.0) == "measured" for each in batch):
        raise UsageProblem(
            f"no request is due in the measured window, {begin:g} s to {end:g} s: another workload.warmup_s, a longer "
            f"{'window_s' if workload.trace is None else 'slice of the trace'}, or a higher rate"
        )
    if begin == end:
        raise UsageProblem("the measured window has no length: all its requests are due at one moment")
    return [replace(each, phase=phase(each.due or 0.0)) for each in batch]
