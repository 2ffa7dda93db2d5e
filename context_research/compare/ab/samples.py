"""Whether an A/B's sessions will have the samples that its primary figures take: what they can't give is refused.

What is measured is drawn before any clock starts, so it is counted and not estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from context_research.compare.family import class_of, split
from context_research.errors import UsageProblem
from context_research.measure.metrics import METRICS, Metric, samples_needed
from context_research.settings.schema import Settings
from context_research.workload.case import Case, cases
from context_research.workload.load import planned

_KNOWN = {metric.name: metric for metric in METRICS}
_TRIES = 20


def check(primary: Iterable[str], chosen: Settings, seeds: Sequence[int], repeats: int, selects: bool = False) -> None:
    """Refuse figures that some session would lack; there is one for each of `seeds`, of `repeats` repeats each.

    `selects`: which cases there will be is not known, and one that has enough will do. Nor are a plugin's metrics.
    Raises UsageProblem, with the option that gives enough.
    """
    for name in primary:
        figure = _Figure.of(name)
        if figure is None:
            continue
        every = cases(chosen)
        counts = [figure.fewest(case, seeds, repeats) for case in every]
        fewest = max(counts) if selects else min(counts)
        if fewest < figure.needed:
            cure = figure.cure(every, seeds, repeats, fewest)
            case = every[counts.index(fewest)]
            raise UsageProblem(
                f"--primary {name}: a session has {fewest} samples of it in case {case.name}, and a "
                f"{figure.statistic} takes {figure.needed}; {cure}"
            )


@dataclass(frozen=True, slots=True)
class _Figure:
    """A percentile of a metric that is known, of one class or of all requests (`class_name` empty)."""

    metric: Metric
    class_name: str
    statistic: str

    @classmethod
    def of(cls, name: str) -> _Figure | None:
        """None where it takes no number of samples: a mean, or nobody knows, as it is of a plugin's metric."""
        metric, statistic = split(name)
        class_name, own = class_of(metric)
        if (known := _KNOWN.get(own)) is None:
            return None
        statistic = statistic or known.statistic
        return None if statistic == "mean" else cls(known, class_name, statistic)

    @property
    def needed(self) -> int:
        return samples_needed(int(self.statistic[1:]))

    def fewest(self, case: Case, seeds: Sequence[int], repeats: int) -> int:
        """The samples of the session that has the fewest."""
        return min(self._count(case, seed, repeats) for seed in (seeds if _drawn(case) else seeds[:1]))

    def _count(self, case: Case, seed: int, repeats: int) -> int:
        if (per_request := self.metric.per_request) is None:
            return repeats
        case = _with(case, "seed", seed)
        return sum(
            per_request(each.output_tokens)
            for repeat in range(repeats)
            for each in planned(case, repeat)
            if each.phase == "measured" and self.class_name in ("", each.class_name)
        )

    def cure(self, of: Sequence[Case], seeds: Sequence[int], repeats: int, fewest: int) -> str:
        """The option that gives enough: more requests, a longer window, more repeats of what is fixed."""
        load = of[0].settings.workload
        if self.metric.per_request is None:
            return f"--repeats {self.needed} gives them"
        if fewest == 0 and (load.trace is not None or load.output_tokens == 1):
            return "there will be none, however many requests are measured: name other figures (--primary)"
        if load.trace is not None:
            return f"--repeats {ceil(repeats * self.needed / fewest)} gives them"
        key, value = ("requests", float(load.requests)) if load.window_s is None else ("window_s", load.window_s)
        for _ in range(_TRIES):
            value = ceil(value * max(1.01, self.needed / max(1, fewest)))
            fewest = min(self.fewest(_with(case, key, value), seeds, repeats) for case in of)
            if fewest >= self.needed:
                break
        return f"-- --{'requests' if key == 'requests' else 'set=workload.window_s'}={value} gives them"


def _drawn(case: Case) -> bool:
    """Whether how many requests are measured, or of which class, or how long, is a matter of the seed."""
    load = case.settings.workload
    return load.timed or bool(load.classes or load.length_spread) or not isinstance(load.output_tokens, int)


def _with(case: Case, key: str, value: float) -> Case:
    """A case whose seed, or whose load, is another."""
    chosen = case.settings
    if key != "seed":
        return replace(
            case, settings=chosen.model_copy(update={"workload": chosen.workload.model_copy(update={key: value})})
        )
    return replace(case, settings=chosen.model_copy(update={"seed": value}))
