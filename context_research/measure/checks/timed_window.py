"""Whether the window of an open or a replayed load shows the load's own state: neither its beginning nor its end.

The load has to have built up when the window begins: requests that are due then meet as many others as later ones. And
it has to go on until the window's last request has ended. Of an overloaded case neither can be: it says so instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from context_research.measure import overload
from context_research.measure.checks.outcomes import judged, not_applicable
from context_research.measure.metrics import Repeat
from context_research.records.case import CheckRecord
from context_research.settings.workload import Workload
from context_research.workload.load import Planned


def judge(repeats: Sequence[Repeat], plans: Mapping[int, Sequence[Planned]], workload: Workload) -> CheckRecord:
    """The check `window` of a timed load. `plans`: what each repeat was to send."""
    if not any(repeat.timelines for repeat in repeats):
        return not_applicable("window", "no request was measured")
    grown = [overload.backlog(repeat) for repeat in repeats]
    slopes = ", ".join(f"{each.in_flight.slope:.3g}" for each in grown)
    rate = sum(each.due_per_s for each in grown) / len(grown)
    evidence = f"backlog grew by {slopes} of {rate:.3g} requests/s"
    if overload.overloaded(grown):
        return judged("window", True, f"overloaded, no latency is shown: {evidence}")
    typical = overload.takes([timeline for repeat in repeats for timeline in repeat.timelines])
    told = f"{workload.warmup_s:g} s of warm-up, where half of what is in flight takes up to {typical:.3g} s"
    evidence = f"{told}; {evidence}"
    if workload.warmup_s < typical:
        return judged("window", False, f"{evidence}; the load had not built up: a longer workload.warmup_s")
    late = max(_after_arrivals(repeat, plans[number], workload) for number, repeat in enumerate(repeats))
    if late <= 0:
        return judged("window", True, evidence)
    evidence += f"; arrivals ended {late:.3g} s before the window's last request did"
    if workload.window_s is None:
        return judged("window", True, f"{evidence}, as the trace does: those met a falling load")
    return judged("window", False, f"{evidence}: a longer window, or an earlier one of the trace")


def _after_arrivals(repeat: Repeat, plan: Sequence[Planned], workload: Workload) -> float:
    """Seconds from the last moment at which a request would have been due to the end of the window's last one."""
    start = repeat.started - workload.warmup_s
    ended = max((timeline.token_times[-1] for timeline in repeat.timelines), default=start)
    return ended - start - max(each.due or 0.0 for each in plan)
