"""Whether what was sent is the load that the settings describe: planned anew from the seed, held against what was sent.

Of an open load also whether its gaps are those of the process that it is named after. A generator that rescales its
gaps to a fixed count over a fixed time (as `vllm bench serve` does) sends a load that varies less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from context_research.measure.checks.outcomes import judged, not_applicable
from context_research.records.case import CheckRecord
from context_research.request import Timeline
from context_research.settings.workload import Workload
from context_research.workload.load import Planned

_READING = 1e-6
"""Seconds by which a moment may be off as it was written down."""
_FALSE_ALARMS = 1e-6
"""Of sound cases: Kolmogorov-Smirnov's p below which gaps are none of the process's."""
_EXACT = 1e-9
"""A sum of random gaps is as near to count ÷ rate as this, as a share, only if it was made so."""


def judge(
    workload: Workload, plans: Mapping[int, Sequence[Planned]], timelines: Sequence[Timeline], whole: bool
) -> CheckRecord:
    """The check `load`. `plans` hold what each repeat was to send, in order; `timelines` what was sent, in any.

    `whole`: no request failed, after which nothing more is sent.
    """
    if not timelines:
        return not_applicable("load", "no request was sent")
    problems, shifts, gaps = list[str](), list[float](), list[NDArray[np.float64]]()
    for repeat, plan in plans.items():
        sent = [each for each in timelines if each.repeat == repeat]
        asked, came = (Counter(each.class_name for each in some if each.phase != "tail") for some in (plan, sent))
        if whole and (never := asked - came):
            names = ", ".join(filter(None, never))
            of = f" of class {names}" if names else ""
            problems.append(f"{never.total()} of {asked.total()} requests{of} were never sent")
        problems += _different(plan, sent)
        if workload.timed and sent:
            shifts += _shifts(plan, sent)
        if workload.arrivals == "open":
            gaps.append(np.diff([0.0, *(each.due or 0.0 for each in plan)]))
    evidence = f"{len(timelines)} requests as drawn from the seed"
    if classes := Counter(each.class_name for each in timelines if each.class_name):
        evidence += f" ({', '.join(f'{name} {count}' for name, count in classes.items())})"
    if shifts:
        worst = max(shifts)
        evidence += f", due within {worst * 1e3:.2g} ms of their moments"
        if worst > _READING:
            problems.append("requests were due at other moments than the load's")
    if gaps:
        evidence += f"; {_process(workload, gaps, problems)}"
    told = [f"{problem} (× {count})" if count > 1 else problem for problem, count in Counter(problems).most_common(3)]
    return judged("load", not problems, "; ".join([*told, evidence]))


def _different(plan: Sequence[Planned], sent: Sequence[Timeline]) -> list[str]:
    """What of the sent requests is not as planned; a request's name ends with its place in the plan."""
    problems = []
    for each in sent:
        planned = plan[int(each.request.rpartition("-")[2])]
        facts = {
            "prompts' length": (planned.prompt_tokens, each.prompt_tokens),
            "outputs' length": (planned.output_tokens, each.output_tokens_asked),
            "class": (planned.class_name, each.class_name),
            "phase": (planned.phase, each.phase),
        }
        problems += [f"{what} differs from the load's" for what, (wanted, found) in facts.items() if wanted != found]
    return problems


def _shifts(plan: Sequence[Planned], sent: Sequence[Timeline]) -> list[float]:
    """Seconds by which requests were due at other moments than planned, the pass's start apart."""
    offsets = [each.scheduled - (plan[int(each.request.rpartition("-")[2])].due or 0.0) for each in sent]
    middle = float(np.median(offsets))
    return [abs(offset - middle) for offset in offsets]


def _rescaled(gaps: NDArray[np.float64], rate: float) -> bool:
    """Whether the moments end where their count, with the first one or without, says to the digit."""
    ends = gaps.sum() * rate
    return gaps.size > 1 and any(abs(ends / count - 1) < _EXACT for count in (gaps.size, gaps.size - 1))


def _process(workload: Workload, drawn: Sequence[NDArray[np.float64]], problems: list[str]) -> str:
    """Rate and variation of an open load's gaps, and whether they are the process's."""
    assert workload.rate is not None  # validated
    gaps, shape = np.concatenate(drawn), workload.cv**-2
    rate, cv = 1 / gaps.mean(), gaps.std() / gaps.mean()
    wanted = stats.gamma(shape, scale=1 / (workload.rate * shape))
    shares, lost = wanted.cdf(gaps), gaps < _READING
    # How short the shortest were is lost in the precision of moments; at CV 3 that is a quarter of all. Their number
    # has to be right.
    shares[lost] = np.linspace(0, wanted.cdf(_READING), int(lost.sum()))
    p = float(stats.kstest(shares, "uniform").pvalue)
    if p < _FALSE_ALARMS:
        problems.append(f"gaps are not those of a gamma process of {workload.rate:g}/s, CV {workload.cv:g}")
    if any(_rescaled(some, workload.rate) for some in drawn):
        problems.append("gaps were rescaled: so many in exactly count / rate seconds")
    return (
        f"{gaps.size} gaps of {rate:.3g}/s, CV {cv:.3g} (gamma of {workload.rate:g}/s, CV {workload.cv:g}; "
        f"Kolmogorov-Smirnov p {p:.2g})"
    )
