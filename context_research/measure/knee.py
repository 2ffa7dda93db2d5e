"""Where to look for capacity: a short search for the rates around it, before anything that counts is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from context_research.errors import UsageProblem
from context_research.measure.case import measure
from context_research.measure.checks.evidence import Standing
from context_research.models.model import Model
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.workload.arrivals import timed
from context_research.workload.case import Case

Attained = Callable[[float], Sequence[float]]
"""A rate -> for each SLO the share of requests that met it."""
NEAR = 1.15
"""The search ends where the rates around a knee are this close."""
_REACH = 64.0
"""How many times higher, or lower, than the rate it began with a search goes before it gives up."""
_REQUESTS = 40
"""That are due in a try's window, at least."""
_SHARE = 4
"""Of the settings' window, a try's. Its warm-up is theirs: a load that is still building up meets every limit."""
MARGIN, STEP, MOST_RATES = 1.4, 1.1, 13


@dataclass(frozen=True, slots=True)
class Knee:
    """The rates (requests per second, all devices together) around which one SLO's attainment falls under its target.

    At `low` it was met, at `high` missed.
    """

    low: float
    high: float

    @property
    def rate(self) -> float:
        """Their geometric mean."""
        return math.sqrt(self.low * self.high)


class NoKnee(UsageProblem):
    """Limits are met at every rate that was tried, or missed at every one."""


def search(attained: Attained, targets: Sequence[float], start: float, factor: float = 2.0) -> list[Knee]:
    """Raise and lower the rate from `start` until every SLO is met at one rate and missed at another, then bisect.

    `factor`: between two rates, before that. Raises NoKnee: an SLO that is missed even at a low rate, or met even
    at a high one, has no knee to find.
    """
    seen: dict[float, Sequence[float]] = {}

    def met(rate: float) -> list[bool]:
        if rate not in seen:
            seen[rate] = attained(rate)
        return [share >= target for share, target in zip(seen[rate], targets, strict=True)]

    _until(lambda rate: not any(met(rate)), start, factor, "met at", "higher")
    _until(lambda rate: all(met(rate)), start, 1 / factor, "missed at", "lower")
    knees = []
    for index in range(len(targets)):
        knee = _around(seen, targets, index)
        while knee.high / knee.low > NEAR:
            met(math.sqrt(knee.low * knee.high))
            knee = _around(seen, targets, index)
        knees.append(knee)
    return knees


def _until(holds: Callable[[float], bool], start: float, factor: float, still: str, other: str) -> None:
    """Change the rate until it holds."""
    for step in range(1 + round(math.log(_REACH) / abs(math.log(factor)))):
        if holds(rate := start * factor**step):
            return
    raise NoKnee(
        f"some limits are {still} {rate:.3g} requests/s too: give limits (slo) that these engines meet at "
        f"some rates and miss at others, or begin at a {other} rate (--set workload.rate=R)"
    )


def _around(seen: dict[float, Sequence[float]], targets: Sequence[float], index: int) -> Knee:
    """The highest rate that met it below one that missed it, and the next that missed it."""
    missed = [rate for rate, shares in seen.items() if shares[index] < targets[index]]
    met = [rate for rate in seen if rate not in missed and rate < max(missed)]
    low = max(met)
    return Knee(low, min(rate for rate in missed if rate > low))


@dataclass(frozen=True, slots=True)
class Try:
    """Requests that were due in a short window, and how many met each of the settings' SLOs.

    `rate`: at which they came, a second, all devices together.
    """

    rate: float
    due: int
    met: Sequence[int]
    overloaded: bool
    """Of few requests that can't be told from chance: a search does not ask."""

    @property
    def shares(self) -> list[float]:
        return [met / self.due if self.due else 0.0 for met in self.met]


def attempt(settings: Settings, model: Model, topology: Topology, rate: float, window_s: float) -> Try:
    """One rate on running engines. Its requests count in no run. Raises UsageProblem as `measure` does."""
    tried = settings.workload.model_copy(update={"rate": rate, "repeats": 1, "window_s": window_s})
    case = Case({"rate": rate}, settings.model_copy(update={"workload": tried, "axes": {}}))
    topology.revive()
    record = measure(case, model, topology, Standing(checks=()), arrive=timed).record(())
    assert record.arrivals is not None
    due = max((due for _, due in record.attained), default=0)
    return Try(record.arrivals.rate, due, [met for met, _ in record.attained], record.overloaded)


def check(settings: Settings) -> None:
    """Raises UsageProblem: there is no rate to raise, or no limit to miss, or more than one load."""
    if settings.workload.arrivals != "open":
        raise UsageProblem(
            f"{settings.experiment}'s load is {settings.workload.arrivals}, and rates are an open load's: name another "
            "experiment, or set workload.arrivals"
        )
    if not all(slo.given for slo in settings.slos) and not settings.workload.class_slos:
        raise UsageProblem(f"{settings.experiment}: an SLO without limits is missed at no rate (--set slo={{ttft: 2}})")
    several = [axis for axis in settings.axes if axis != "workload.rate"]
    several += ["--prompt-lengths"] * (len(settings.workload.prompt_lengths) > 1)
    if several:
        raise UsageProblem(f"{settings.experiment}: rates are searched for one load, give {several[0]} one value")


def find(settings: Settings, model: Model, topology: Topology, say: Callable[[str], None]) -> list[Knee]:
    """Each SLO's knee on running engines, in the settings' order. What a try says is rough."""
    workload = settings.workload

    def attained(rate: float) -> list[float]:
        window = max(_REQUESTS / rate, (workload.window_s or 0.0) / _SHARE)
        shares = attempt(settings, model, topology, rate, window).shares
        say(f"{rate:.3g}/s: {', '.join(f'{share:.0%}' for share in shares)} within the limits")
        return shares

    return search(attained, [slo.attainment for slo in settings.slos], workload.rate or 1.0)


def grid(knees: Sequence[Knee]) -> list[float]:
    """Rates from well below the lowest knee to well above the highest, evenly spaced on a logarithmic scale.

    Ten percent apart, further where that would be more than 13.
    """
    low, high = min(knee.rate for knee in knees) / MARGIN, max(knee.rate for knee in knees) * MARGIN
    count = min(MOST_RATES, 1 + math.ceil(math.log(high / low) / math.log(STEP)))
    step = (high / low) ** (1 / (count - 1))
    return [float(f"{low * step**index:.3g}") for index in range(count)]
