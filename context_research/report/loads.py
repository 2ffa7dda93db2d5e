"""What a reader must know of the load before any latency: what was asked for, how it came, whether it was too much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from context_research.compare.family import class_of
from context_research.records.case import CaseRecord
from context_research.report.tables import table
from context_research.settings.schema import Settings
from context_research.settings.workload import Length, Lognormal, Slo, Trace, Uniform, Workload

ALL = "all"
"""What stands for the class where a figure is of every request."""


def described(settings: Settings) -> str:
    """``open, 4/s, CV 1 (Poisson), 10 s of warm-up, then 60 s measured; chat 95 %: prompt 64 to 256, output 16; …``"""
    workload = settings.workload
    spread = f"; lengths ± {workload.length_spread:.0%}" if workload.length_spread else ""
    return f"{_arrivals(settings)}; {'; '.join(_lengths(settings))}{spread}"


def objectives(settings: Settings) -> str:
    """``ttft 0.5 s, tpot 0.05 s; document: ttft 5 s``; empty without any."""
    parts = [*map(_slo, settings.slos), *(f"{name}: {_slo(slo)}" for name, slo in settings.workload.class_slos.items())]
    return "; ".join(part for part in parts if part)


def classes(case: CaseRecord) -> list[str]:
    """Names of the classes that its load had."""
    return list(dict.fromkeys(name for metric in case.metrics if (name := class_of(metric)[0])))


def warning(cases: Iterable[CaseRecord]) -> str:
    """That there was no steady state, or nothing."""
    grown = {case.name: case.overload.slope for case in cases if case.overload is not None and case.overloaded}
    if not grown:
        return ""
    told = ", ".join(f"{name} (backlog grew by {slope:.2g} requests/s)" for name, slope in grown.items())
    return (
        f"> **OVERLOADED: {told}.** Requests came faster than they were served: there is no steady state, and a "
        "latency would only say how long the run was. Attainment and throughput are shown, latencies are not."
    )


def as_it_was(cases: Iterable[CaseRecord]) -> str:
    """The section about loads with moments of their own, or nothing."""
    cases = [case for case in cases if case.arrivals is not None]
    rows = [row for case in cases for row in _arrived(case)]
    left = [f"**{c.name}**: {c.arrivals.left_out} rows" for c in cases if c.arrivals and c.arrivals.left_out]
    note = f"\n\nLeft out of a trace, as their prompts are too long: {', '.join(left)}." if left else ""
    if spread := [f"**{c.name}**: {c.arrivals.spread_s:g} s" for c in cases if c.arrivals and c.arrivals.spread_s]:
        note += f"\n\nMoments of a trace, spread by the seed within its clock's ticks: {', '.join(spread)}."
    header = ("case", "class", "due", "rate (1/s)", "CV of gaps", "backlog grew by (1/s)", "state")
    explained = "What was due in the measured windows of all repeats. Gaps are drawn: rate and CV scatter about theirs."
    return f"## Load\n\n{explained}\n\n{table(rows, header)}{note}" if rows else ""


def _arrivals(settings: Settings) -> str:
    workload = settings.workload
    if workload.arrivals == "closed":
        levels = ", ".join(map(str, workload.concurrency)) or "?"
        return f"closed loop, {levels} in flight, {workload.requests} requests measured in a repeat"
    if workload.arrivals == "replay" and workload.trace is not None:
        return f"replay of {_trace(workload.trace)}{_window(workload)}"
    if workload.arrivals == "open":
        cv = _given(settings, "cv", workload.cv)
        poisson = " (Poisson)" if cv == "1" else ""
        return f"open, {_given(settings, 'rate', workload.rate or 0)}/s, CV {cv}{poisson}{_window(workload)}"
    return f"{workload.arrivals} arrivals"


def _given(settings: Settings, name: str, value: float) -> str:
    """A setting's value, or all of an axis."""
    values = settings.axes.get(f"workload.{name}", (value,))
    return ", ".join(f"{each:g}" if isinstance(each, int | float) else str(each) for each in values)


def _window(workload: Workload) -> str:
    measured = "the rest" if workload.window_s is None else f"{workload.window_s:g} s"
    return f", {workload.warmup_s:g} s of warm-up, then {measured} measured"


def _trace(trace: Trace) -> str:
    parts = [Path(trace.file).name]
    if trace.rows:
        parts.append(f"rows {trace.rows[0]} to {trace.rows[1]}")
    elif trace.start_s or trace.seconds:
        end = "" if trace.seconds is None else f" to {trace.start_s + trace.seconds:g} s"
        parts.append(f"from {trace.start_s:g} s{end}")
    if trace.time_scale != 1:
        parts.append(f"time × {trace.time_scale:g}")
    if trace.longest_prompt:
        parts.append(f"prompts up to {trace.longest_prompt} tokens")
    return ", ".join(parts)


def _lengths(settings: Settings) -> Iterator[str]:
    """Of prompts and outputs, class by class."""
    workload = settings.workload
    if workload.arrivals == "replay":
        yield "lengths are the trace's"
    elif not workload.classes:
        prompts = ", ".join(map(str, workload.prompt_lengths))
        output = settings.axes.get("workload.output_tokens")
        outputs = ", ".join(map(str, output)) if output else _length(workload.output_tokens)
        yield f"prompts of {prompts} tokens, output {outputs}"
    shares = sum(each.share for each in workload.classes.values())
    for name, each in workload.classes.items() if workload.arrivals != "replay" else ():
        if each.rows is not None or each.prompt is None:
            own = f"lengths of {Path(each.rows or '').name}"
        else:
            own = f"prompt {_length(each.prompt)}, output {_length(each.output or workload.output_tokens)}"
        yield f"{name} {each.share / shares * 100:.3g} %: {own}"


def _length(length: Length) -> str:
    if isinstance(length, Uniform):
        return f"{length.low} to {length.high}"
    if isinstance(length, Lognormal):
        return f"median {length.p50} (p90 {length.p90}, at most {length.max})"
    return str(length)


def _slo(slo: Slo) -> str:
    return ", ".join(f"{name} {limit:g} s" for name, limit in slo.limits.items())


def _arrived(case: CaseRecord) -> Iterator[Sequence[str]]:
    arrivals, overload = case.arrivals, case.overload
    assert arrivals is not None  # asked before
    every = sum(arrivals.due.values())
    state = "OVERLOADED" if case.overloaded else "not overloaded"
    slope = "–" if overload is None else f"{overload.slope:+.2g}"
    cv = "–" if arrivals.cv is None else f"{arrivals.cv:.2f}"
    yield (case.name, ALL, str(every), f"{arrivals.rate:.3g}", cv, slope, state)
    for name, due in arrivals.due.items():
        if name:
            yield (case.name, name, str(due), f"{arrivals.rate * due / every:.3g}" if every else "–", "", "", "")
