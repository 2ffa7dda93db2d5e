"""The family as a user names it: metrics (``ttft``, a class's ``chat.ttft``), or figures of them (``ttft.p90``)."""

from __future__ import annotations

from collections.abc import Iterable

from context_research.measure.metrics import PERCENTILES

PRIMARY = ("ttft", "tpot")
"""The metrics that are judged unless others are named, each by its `statistic`, in every case: the family."""
STATISTICS = ("mean", *(f"p{percentile}" for percentile in PERCENTILES))
"""What can stand for a unit, written ``ttft.p90``."""


TAILS = ("p90", "p99")
"""What is asked of a figure after its median, the nearer one first."""


def tails(statistic: str) -> tuple[str, ...]:
    """What follows a figure: the tails beyond it; nothing follows a mean."""
    if not statistic.startswith("p"):
        return ()
    return tuple(tail for tail in TAILS if int(tail[1:]) > int(statistic[1:]))


def split(name: str) -> tuple[str, str | None]:
    """The metric, and the statistic where one is named: only that can follow the last dot, all else is a metric's."""
    metric, _, last = name.rpartition(".")
    return (metric, last) if metric and last in STATISTICS else (name, None)


def class_of(metric: str) -> tuple[str, str]:
    """The class (empty: all requests) and the metric's own name: ``("chat", "ttft")``."""
    name, _, own = metric.rpartition(".")
    return name, own


def offered(metrics: Iterable[str]) -> str:
    """What there is to name, for a message: a class has its metrics under the same names, so they are told once."""
    pairs = [class_of(metric) for metric in metrics]
    told = f"metrics: {', '.join(dict.fromkeys(own for _, own in pairs))}"
    if classes := list(dict.fromkeys(name for name, _ in pairs if name)):
        told += f"; of a class ({', '.join(classes)}) alone: {classes[0]}.{pairs[0][1]}"
    return f"{told}; with .mean or .p50 … .p99"
