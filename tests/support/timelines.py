"""Hand-made timelines."""

from context_research.measure.metrics import Repeat
from context_research.request import Leg, Timeline

_SECOND = {
    **{name: f"decode_{name}" for name in ("engine", "sent", "queued", "started", "first_token", "cached_tokens")},
    **{"read_started": "handoff_started", "read_finished": "handoff_finished"},
}


def timeline(times=(), *, asked=None, scheduled=0.0, finish_reason=None, token_ids=None, sent=None, **values):
    """A request whose tokens came at `times`; complete unless `asked` says otherwise.

    `prefill_…` are its first leg's, `decode_…` and `handoff_…` give it a second one, on another engine.
    """
    times = list(times)
    first = Leg(values.pop("prefill_engine", None) or "a", sent=scheduled if sent is None else sent)
    for field in ("queued", "started", "cached_tokens"):
        setattr(first, field, values.pop(f"prefill_{field}", None))
    first.first_token = values.pop("prefill_finished", None)
    values.pop("finished", None)  # the last token's
    legs, second = [first], {field: values.pop(name) for field, name in _SECOND.items() if name in values}
    if second:
        first.role = "prefill"
        legs.append(Leg(**({"engine": "d", "role": "decode"} | second)))
    legs[-1].token_times, legs[-1].finish_reason = times, finish_reason
    legs[-1].token_ids = list(range(len(times))) if token_ids is None else token_ids
    base = {"request": "r", "prompt_sha256": "0", "repeat": 0, "prompt_tokens": 8}
    given = base | {"output_tokens_asked": len(times) if asked is None else asked} | values
    return Timeline(scheduled=scheduled, legs=legs, **given)


def two_slots(**values):
    """Two slots half a second apart, 2 s and two tokens a request: one a second. Three end in the window of 2.5 s."""
    ramp, measured, drain = (
        [timeline([start + 1, end], scheduled=start) for start, end in spans]
        for spans in (((0, 2), (0, 2.5)), ((2, 4), (2.5, 4.5)), ((4, 6),))
    )
    return Repeat(2, 4.5, measured, [*ramp, *measured, *drain], **values)
