"""Every metric once: name, unit, direction, formula. Definitions and their sources: docs/metrics.md.

A metric turns one case's measured repeats into samples. Latencies are one sample per request (itl: per token gap),
rates one per repeat. Samples of different requests in one run are not independent: compare repeats, not samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite, log

import numpy as np
from numpy.typing import NDArray

from context_research.errors import UsageProblem, given_twice
from context_research.measure.intervals import covered
from context_research.records.case import Distribution, MetricRecord
from context_research.records.requests import WindowRecord
from context_research.request import Timeline
from context_research.settings.workload import Slo

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Repeat:
    """One measured pass: its window in perf_counter seconds, and what completed.

    `timelines` are the requests whose latencies count; `served` all that were served in the pass, as the load is
    everything in flight. `transfers` holds the connector's own records of the pass's handoffs, (seconds, bytes) each;
    `devices` is the number of GPUs (on CPU: 1, the machine) that served.
    """

    started: float
    ended: float
    timelines: Sequence[Timeline]
    served: Sequence[Timeline]
    transfers: Sequence[tuple[float, int]] = ()
    devices: int = 1
    joules: float | None = None
    """What the serving GPUs used over the whole pass; None where that is not known."""
    slo: Slo = field(default_factory=Slo)

    @classmethod
    def of(
        cls,
        timelines: Iterable[Timeline],
        served: Sequence[Timeline],
        *,
        transfers: Sequence[tuple[float, int]] = (),
        devices: int = 1,
        joules: float | None = None,
        slo: Slo | None = None,
    ) -> Repeat:
        """The window from when the first of `timelines` was due to the last one's end; those that completed count."""
        asked = list(timelines)
        return cls(
            started=min((timeline.scheduled for timeline in asked), default=0.0),
            ended=max((timeline.finished or timeline.scheduled for timeline in asked), default=0.0),
            timelines=[timeline for timeline in asked if timeline.complete],
            served=served,
            transfers=transfers,
            devices=devices,
            joules=joules,
            slo=slo or Slo(),
        )

    def with_all(self) -> Repeat:
        """The same pass, ramp and drain counted too."""
        return Repeat.of(
            self.served,
            self.served,
            transfers=self.transfers,
            devices=self.devices,
            joules=self.joules,
            slo=self.slo,
        )

    def window(self, case: str, number: int, origin: float) -> WindowRecord:
        """What of this pass is in no request's line."""
        return WindowRecord(
            case=case,
            repeat=number,
            started=self.started - origin,
            ended=self.ended - origin,
            devices=self.devices,
            slo=self.slo,
            transfers=tuple(self.transfers),
            joules=self.joules,
        )

    @classmethod
    def read(cls, window: WindowRecord, served: Sequence[Timeline]) -> Repeat:
        """The pass as it was measured, from its lines in requests.jsonl."""
        measured = (timeline for timeline in served if timeline.phase == "measured")
        return cls.of(
            measured,
            served,
            transfers=window.transfers,
            devices=window.devices,
            joules=window.joules,
            slo=window.slo,
        )

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def steady_seconds(self) -> float:
        """Seconds in which a steady state of this load serves as much as `timelines` did; what rates are divided by.

        Little's law: their end-to-end times ÷ requests in flight, the window's mean. A count in the window itself is
        off by a wave of requests at its ends (docs/metrics.md). 0 where nothing completed; of a pass with failed
        requests, which is invalid, it says little.
        """
        spans = [(each.scheduled, each.token_times[-1]) for each in self.served if each.token_times]
        held = sum(covered([span], self.started, self.ended) for span in spans)
        return sum(map(e2e, self.timelines)) * self.seconds / held if held else 0.0

    @property
    def output_tokens(self) -> int:
        """Of `timelines`: what rates of tokens count."""
        return sum(len(timeline.token_times) for timeline in self.timelines)


@dataclass(frozen=True, slots=True)
class Metric:
    """`samples(repeat)` are values in `unit`. Only seconds (lower is better) become pytest-benchmark rows.

    `statistic` of the samples stands for a repeat or a session where two are compared: `p50`, or `mean` for rates, of
    which a repeat has one sample.
    """

    name: str
    unit: str
    samples: Callable[[Repeat], Iterable[float]]
    lower_is_better: bool = True
    statistic: str = "p50"


def ttft(timeline: Timeline) -> float:
    """First token at the client − scheduled. From the scheduled time, so that a client that sends late shows it."""
    return timeline.token_times[0] - timeline.scheduled


def tpot(timeline: Timeline) -> float | None:
    """(last token − first token) / (output tokens − 1); None where there is one token. DistServe's TPOT."""
    times = timeline.token_times
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None


def itl(timeline: Timeline) -> list[float]:
    """Gaps between consecutive tokens at the client; tokens of one chunk are 0 apart."""
    return [float(gap) for gap in np.diff(timeline.token_times)]


def stall(timeline: Timeline) -> float | None:
    """The longest gap between two tokens; None where there is one token."""
    return max(itl(timeline), default=None)


def e2e(timeline: Timeline) -> float:
    """Last token at the client − scheduled."""
    return timeline.token_times[-1] - timeline.scheduled


def chunked_share(timelines: Iterable[Timeline]) -> float | None:
    """Share of token gaps that are 0, as their tokens came in one chunk: how far `itl` is blurred."""
    gaps = [gap for timeline in timelines for gap in itl(timeline)]
    return gaps.count(0.0) / len(gaps) if gaps else None


def goodput(repeat: Repeat) -> float | None:
    """Requests per second and device that met every SLO given (DistServe's goodput); None without an SLO."""
    if (repeat.slo.ttft is None and repeat.slo.tpot is None) or repeat.seconds <= 0:
        return None
    met = [timeline for timeline in repeat.timelines if _meets(timeline, repeat.slo)]
    return len(met) / repeat.steady_seconds / repeat.devices if met else 0.0


def output_token_time(repeat: Repeat) -> float | None:
    """Seconds per output token at this load: the inverse is output tokens a second. None where nothing completed."""
    return repeat.steady_seconds / repeat.output_tokens if repeat.output_tokens else None


def energy_per_output_token(repeat: Repeat) -> float | None:
    """The serving GPUs' energy over the whole pass ÷ its output tokens; None where the energy is not known."""
    tokens = sum(len(timeline.token_times) for timeline in repeat.served)
    return None if repeat.joules is None or not tokens else repeat.joules / tokens


def _meets(timeline: Timeline, slo: Slo) -> bool:
    return (slo.ttft is None or ttft(timeline) <= slo.ttft) and (slo.tpot is None or (tpot(timeline) or 0) <= slo.tpot)


def _each(formula: Callable[[Timeline], float | None]) -> Callable[[Repeat], Iterable[float]]:
    return lambda repeat: [value for timeline in repeat.timelines if (value := formula(timeline)) is not None]


def _one(value: float | None) -> list[float]:
    return [] if value is None else [value]


METRICS: tuple[Metric, ...] = (
    Metric("ttft", "s", _each(ttft)),
    Metric("tpot", "s", _each(tpot)),
    Metric("itl", "s", lambda repeat: [gap for timeline in repeat.timelines for gap in itl(timeline)]),
    Metric("stall", "s", _each(stall)),
    Metric("e2e", "s", _each(e2e)),
    Metric("output_token_time", "s", lambda repeat: _one(output_token_time(repeat)), statistic="mean"),
    Metric("handoff", "s", lambda repeat: [seconds for seconds, _ in repeat.transfers]),
    Metric(
        "handoff_bandwidth",
        "B/s",
        lambda repeat: [size / s for s, size in repeat.transfers if s > 0],
        lower_is_better=False,
    ),
    Metric("energy_per_output_token", "J", lambda repeat: _one(energy_per_output_token(repeat)), statistic="mean"),
    Metric("goodput", "1/s", lambda repeat: _one(goodput(repeat)), lower_is_better=False, statistic="mean"),
)


def samples_needed(percentile: int) -> int:
    """The fewest samples n that carry a percentile p: 1 − pⁿ ≥ 0.995, its 99 % interval ends inside the sample."""
    return ceil(log(0.005) / log(percentile / 100))


def summarize(samples: Sequence[float], unit: str) -> Distribution:
    """Unit, count, mean and percentiles (linear interpolation); a percentile with too few samples behind it is None."""
    values = np.asarray(samples, dtype=float)
    return Distribution(
        unit=unit,
        count=int(values.size),
        mean=float(values.mean()) if values.size else None,
        p50=_percentile(values, 50),
        p90=_percentile(values, 90),
        p95=_percentile(values, 95),
        p99=_percentile(values, 99),
    )


def _percentile(values: NDArray[np.float64], percentile: int) -> float | None:
    return float(np.percentile(values, percentile)) if values.size >= samples_needed(percentile) else None


def sampled(metric: Metric, repeats: Iterable[Repeat]) -> tuple[list[float], str | None]:
    """One metric's samples of all `repeats` together, or none and why: a plugin's formula must not cost the others."""
    try:
        samples = [float(value) for repeat in repeats for value in metric.samples(repeat)]
    except Exception as error:
        return [], f"{type(error).__name__}: {error}"
    if unknown := [value for value in samples if not isfinite(value)]:
        return [], f"{len(unknown)} of {len(samples)} samples are no number ({unknown[0]})"
    return samples, None


def pooled(metric: Metric, repeats: Iterable[Repeat]) -> Distribution:
    """One metric over the samples of all `repeats` together; without figures where one of them is none, and why."""
    samples, missing = sampled(metric, repeats)
    return summarize(samples, metric.unit).model_copy(update={"missing": missing})


def extended(added: Iterable[Metric]) -> tuple[Metric, ...]:
    """The built-in metrics and those that plugins add. Raises UsageProblem: no metric, a name that is taken."""
    every = (*METRICS, *added)
    statistics = ("mean", *(f"p{percentile}" for percentile in PERCENTILES))
    for one in every:
        if not isinstance(one, Metric):
            raise UsageProblem(f"pytest_context_research_metrics: {one!r:.80} is no Metric")
        if one.statistic not in statistics:
            raise UsageProblem(f"metric {one.name!r}: statistic {one.statistic!r} is none of {', '.join(statistics)}")
    if twice := given_twice(metric.name for metric in every):
        raise UsageProblem(f"metric {twice!r}: there are two of this name")
    return every


def summaries(of: Iterable[Metric], repeats: Sequence[Repeat]) -> dict[str, MetricRecord]:
    """Every metric over the samples of all `repeats` together."""
    return {
        metric.name: MetricRecord(
            **pooled(metric, repeats).model_dump(),
            lower_is_better=metric.lower_is_better,
            statistic=metric.statistic,
        )
        for metric in of
    }
