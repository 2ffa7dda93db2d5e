"""Every metric once: name, unit, direction, formula. Definitions and their sources: docs/metrics.md.

A metric turns one case's measured repeats into samples. Latencies are one sample per request (itl: per token gap),
rates one per repeat. Samples of different requests in one run are not independent: compare repeats, not samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, isfinite, log

import numpy as np
from numpy.typing import NDArray

from context_research.errors import UsageProblem, given_twice
from context_research.measure import requests
from context_research.measure.repeat import Repeat as Repeat
from context_research.measure.requests import e2e as e2e
from context_research.measure.requests import itl as itl
from context_research.measure.requests import stall as stall
from context_research.measure.requests import tpot as tpot
from context_research.measure.requests import ttft as ttft
from context_research.records.case import Distribution, MetricRecord
from context_research.request import Timeline

PERCENTILES = (50, 90, 95, 99)


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
    of_classes: bool = True
    """Whether a class of requests has it too."""
    per_request: Callable[[int], int] | None = lambda _: 1
    """How many samples a request with so many output tokens gives; None: a repeat gives one."""

    @property
    def is_latency(self) -> bool:
        """Of requests, in seconds: what only says how long the run was where a load has no steady state."""
        return self.unit == "s" and self.statistic != "mean" and self.of_classes

    def of_class(self, name: str) -> Metric:
        """The same of one class's requests: a metric by itself, ``chat.ttft``."""
        return replace(self, name=f"{name}.{self.name}", samples=lambda repeat: self.samples(repeat.of_class(name)))


def chunked_share(timelines: Iterable[Timeline]) -> float | None:
    """Share of token gaps that are 0, as their tokens came in one chunk: how far `itl` is blurred."""
    gaps = [gap for timeline in timelines for gap in itl(timeline)]
    return gaps.count(0.0) / len(gaps) if gaps else None


def attainment(repeat: Repeat) -> list[float]:
    """For each request that was due: 1 if it met every SLO given, 0 if not, or if it failed or never ended.

    Its mean is the share. Empty where no SLO is given; requests of classes without any are not counted.
    """
    bound = (count for name, count in repeat.asked.items() if repeat.class_slos.get(name, repeat.slo).given)
    good, total = _good(repeat), sum(bound)
    return [1.0] * good + [0.0] * (total - good)


def goodput(repeat: Repeat) -> float | None:
    """Requests per second and device that met every SLO given, at this load; None without an SLO.

    vLLM's and AIPerf's goodput. DistServe's, the highest rate at which enough requests meet them, is `capacity`.
    """
    if not attainment(repeat) or repeat.seconds <= 0:
        return None
    good = _good(repeat)
    return good / repeat.steady_seconds / repeat.devices if good else 0.0


def _good(repeat: Repeat) -> int:
    bound = ((timeline, repeat.slo_of(timeline)) for timeline in repeat.timelines)
    return sum(slo.given and requests.met(timeline, slo) for timeline, slo in bound)


def rate(count: Callable[[Repeat], int]) -> Callable[[Repeat], Iterable[float]]:
    """Of something that is counted: per second of a steady state of this load, and per device."""
    return lambda repeat: [count(repeat) / repeat.steady_seconds / repeat.devices] if repeat.steady_seconds else []


def output_token_time(repeat: Repeat) -> float | None:
    """Seconds per output token at this load: the inverse is output tokens a second. None where nothing completed."""
    return repeat.steady_seconds / repeat.output_tokens if repeat.output_tokens else None


def energy_per_output_token(repeat: Repeat) -> float | None:
    """The serving GPUs' energy over the whole pass ÷ its output tokens; None where the energy is not known."""
    tokens = sum(len(timeline.token_times) for timeline in repeat.served)
    return None if repeat.joules is None or not tokens else repeat.joules / tokens


def _each(formula: Callable[[Timeline], float | None]) -> Callable[[Repeat], Iterable[float]]:
    return lambda repeat: [value for timeline in repeat.timelines if (value := formula(timeline)) is not None]


def _one(value: float | None) -> list[float]:
    return [] if value is None else [value]


_more_is_better = partial(Metric, lower_is_better=False, statistic="mean", per_request=None)


def _if_gaps(output_tokens: int) -> int:
    return int(output_tokens > 1)


METRICS: tuple[Metric, ...] = (
    Metric("ttft", "s", _each(ttft)),
    Metric("tpot", "s", _each(tpot), per_request=_if_gaps),
    Metric(
        "itl",
        "s",
        lambda repeat: [gap for timeline in repeat.timelines for gap in itl(timeline)],
        per_request=lambda output_tokens: output_tokens - 1,
    ),
    Metric("stall", "s", _each(stall), per_request=_if_gaps),
    Metric("e2e", "s", _each(e2e)),
    Metric(
        "output_token_time",
        "s",
        lambda repeat: _one(output_token_time(repeat)),
        statistic="mean",
        per_request=None,
    ),
    Metric("handoff", "s", lambda repeat: [seconds for seconds, _ in repeat.transfers], of_classes=False),
    Metric(
        "handoff_bandwidth",
        "B/s",
        lambda repeat: [size / s for s, size in repeat.transfers if s > 0],
        lower_is_better=False,
        of_classes=False,
    ),
    Metric(
        "energy_per_output_token",
        "J",
        lambda repeat: _one(energy_per_output_token(repeat)),
        statistic="mean",
        of_classes=False,
        per_request=None,
    ),
    _more_is_better("goodput", "1/s", lambda repeat: _one(goodput(repeat))),
    _more_is_better("attainment", "share", attainment, per_request=lambda _: 1),
    _more_is_better("request_rate", "1/s", rate(lambda repeat: repeat.finished)),
    _more_is_better("input_token_rate", "1/s", rate(lambda repeat: repeat.prompt_tokens)),
    _more_is_better("output_token_rate", "1/s", rate(lambda repeat: repeat.output_tokens)),
)


def with_classes(of: Iterable[Metric], repeats: Iterable[Repeat]) -> tuple[Metric, ...]:
    """Each metric, and behind it the same of every class that the repeats' loads have."""
    names = list(dict.fromkeys(name for repeat in repeats for name in repeat.classes))
    return tuple(
        each for metric in of for each in (metric, *(metric.of_class(name) for name in names if metric.of_classes))
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


def samples(of: Iterable[Metric], repeats: Sequence[Repeat], *, latencies: bool) -> dict[str, tuple[float, ...]]:
    """Every metric's samples over all repeats, by name; `latencies` False: there was no steady state."""
    shown = (metric for metric in with_classes(of, repeats) if latencies or not metric.is_latency)
    return {metric.name: tuple(sampled(metric, repeats)[0]) for metric in shown}


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


def withheld(metric: Metric, why: str) -> Distribution:
    """No figures, and why."""
    return summarize((), metric.unit).model_copy(update={"missing": why})


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


def summaries(
    of: Iterable[Metric], repeats: Sequence[Repeat], no_latencies: str | None = None
) -> dict[str, MetricRecord]:
    """Every metric over the samples of all `repeats` together; `no_latencies`: why those are withheld."""
    found = {
        metric.name: (metric, withheld(metric, no_latencies))
        if no_latencies and metric.is_latency
        else (metric, pooled(metric, repeats))
        for metric in of
    }
    return {
        name: MetricRecord(**all_of.model_dump(), lower_is_better=metric.lower_is_better, statistic=metric.statistic)
        for name, (metric, all_of) in found.items()
    }
