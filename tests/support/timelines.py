"""Hand-made timelines."""

from context_research.measure.metrics import Repeat
from context_research.request import Timeline


def timeline(times=(), *, asked=None, scheduled=0.0, **values):
    """A request whose tokens came at `times`; complete unless `asked` says otherwise."""
    times = list(times)
    base = {"request": "r", "prompt_sha256": "0", "repeat": 0, "sent": scheduled, "prompt_tokens": 8}
    given = base | {"output_tokens_asked": len(times) if asked is None else asked} | values
    return Timeline(scheduled=scheduled, token_times=times, **({"token_ids": list(range(len(times)))} | given))


def two_slots(**values):
    """Two slots half a second apart, 2 s and two tokens a request: one a second. Three end in the window of 2.5 s."""
    ramp, measured, drain = (
        [timeline([start + 1, end], scheduled=start) for start, end in spans]
        for spans in (((0, 2), (0, 2.5)), ((2, 4), (2.5, 4.5)), ((4, 6),))
    )
    return Repeat(2, 4.5, measured, [*ramp, *measured, *drain], **values)
