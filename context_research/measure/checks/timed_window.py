"""Whether the window of an open or a replayed load shows the load's own state: neither its beginning nor its end.

The load has to have built up when the window begins: requests that are due then meet as many others as later ones. And
it has to go on until the window's last request has ended. Of an overloaded case neither can be: it says so instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from context_research.measure import overload
from context_research.measure.checks.outcomes import judged, not_applicable
from context_research.measure.metrics import Repeat, e2e
from context_research.records.case import CheckRecord
from context_research.workload.load import TAIL


def judge(repeats: Sequence[Repeat], warmup_s: float) -> CheckRecord:
    """The check `window` of a timed load."""
    some = [repeat for repeat in repeats if repeat.timelines]
    if not some:
        return not_applicable("window", "no request was measured")
    grown = [overload.backlog(repeat) for repeat in some]
    slopes = ", ".join(f"{each.slope:.3g}" for each in grown)
    rate = sum(each.due_per_s for each in grown) / len(grown)
    evidence = f"backlog grew by {slopes} of {rate:.3g} requests/s"
    if overload.overloaded(grown):
        return judged("window", True, f"overloaded, no latency is shown: {evidence}")
    typical = median(e2e(timeline) for repeat in some for timeline in repeat.timelines)
    evidence = f"{warmup_s:g} s of warm-up, where half of the requests take up to {typical:.3g} s; {evidence}"
    if warmup_s < typical:
        return judged("window", False, f"{evidence}; the load had not built up: a longer workload.warmup_s")
    if short := [repeat for repeat in some if not _went_on(repeat)]:
        evidence += f"; in {len(short)} of {len(some)} repeats arrivals ended before the window's last request"
        return judged("window", False, f"{evidence}: a longer workload.window_s")
    return judged("window", True, evidence)


def _went_on(repeat: Repeat) -> bool:
    """Whether arrivals went on until the window's last request had ended, or for as long as the load has any."""
    last = max(timeline.token_times[-1] for timeline in repeat.timelines)
    return last <= repeat.ended + TAIL * repeat.seconds
