"""What each validity check decides, from plain values: pass, fail or n/a, with the figures behind it in one line.

What each proves, and what it cannot: docs/validity.md. builtin.py gives them what `evidence.py` gathered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from context_research.engines.base import Counters
from context_research.measure import metrics, waterfall
from context_research.measure.checks.kv_transport import Transport
from context_research.measure.checks.outcomes import judged, not_applicable, not_provable
from context_research.measure.checks.output_parity import NoReference, Reference, alike, first_difference
from context_research.measure.client_lag import Lag
from context_research.measure.intervals import covered
from context_research.measure.metrics import Repeat
from context_research.records.case import CheckRecord
from context_research.request import Timeline

LOOP_LAG, LOOP_MAX = 1.0, 10.0
"""Of the median token gap: the most that the event loop's lateness may be at p99, and once."""
SEND_LAG = 0.1
"""Of the median TTFT, or one median token gap where that is more: the most that the p99 of sent − scheduled may be."""
UNATTRIBUTED = {"cpu": 0.05, "cuda": 0.03}
"""Of TTFT, at the median: the most that the waterfall may leave unattributed."""
_WATERFALL_FROM = 4096
"""Prompt tokens from which the waterfall's bound applies: below, fixed costs of a millisecond are a large share."""
_FULL_LOAD = 0.9
"""Of the window: the least time in which every slot must have a request in flight."""


def complete(
    asked: int, timelines: Sequence[Timeline], dead: Sequence[str], replaced: Sequence[str] = ()
) -> CheckRecord:
    """Every request finished, without error, with exactly the tokens asked for, and every engine outlived them.

    `timelines` are all that were sent; `asked` counts the measured ones. `dead` names engines; `replaced` those whose
    processes are others than at the case's start.
    """
    done = sum(timeline.complete for timeline in timelines if timeline.phase == "measured")
    evidence = f"{done} of {asked} requests finished with the asked tokens"
    errors = Counter(timeline.error or "cut short" for timeline in timelines if not timeline.complete)
    # A request that noticed has named its engine already.
    errors |= {f"engine {name!r} died": 1 for name in dead if not any(f"{name!r} died" in error for error in errors)}
    errors |= {f"engine {name!r} was restarted during the case": 1 for name in replaced if name not in dead}
    if missing := asked - sum(timeline.phase == "measured" for timeline in timelines):
        errors[f"{missing} never sent"] = 1
    for error, count in errors.most_common(3):
        evidence += f"; {count} × {error}" if count > 1 else f"; {error}"
    return judged("complete", done == asked and not errors, evidence)


def disaggregated(
    timelines: Sequence[Timeline],
    decode: Counters | None,
    faults: Mapping[str, int],
    block_tokens: int,
    kv_bytes_per_token: int,
) -> CheckRecord:
    """Decode computed one prompt token a request, the protocol's own; every other came by a transfer that worked.

    `timelines` are those served since the engines' counts began, `decode` what its engine counted for them; `faults`
    sums both engines' connectors'. Each transfer must hold every block of its prompt.
    """
    if decode is None:
        return not_applicable("disaggregated", "aggregated: prefill and decode run on one engine")
    if not timelines:
        return not_applicable("disaggregated", "no request was measured")
    prompt, count = sum(timeline.prompt_tokens for timeline in timelines), len(timelines)
    blocks = [-(-timeline.prompt_tokens // block_tokens) for timeline in timelines]
    block_bytes = block_tokens * kv_bytes_per_token
    moved = sorted(size for _, size in decode.transfers)
    computed = [timeline.computed_on_decode for timeline in timelines]
    recomputed = max((tokens for tokens in computed if tokens is not None), default=prompt)
    evidence = (
        f"{decode.prompt_external} of {prompt} prompt tokens external, at most {recomputed} a request computed on "
        f"decode (the protocol's own: 1); {len(moved)} transfers for {count} requests, {sum(moved)} bytes of "
        f"{sum(blocks)} blocks × {block_tokens} tokens × {kv_bytes_per_token}; faults: {dict(faults) or 'none'}"
    )
    good = (
        all(tokens is not None and tokens <= 1 for tokens in computed)
        and decode.prompt_external >= prompt - count
        and moved == sorted(number * block_bytes for number in blocks)
        and not faults
    )
    return judged("disaggregated", good, evidence)


def transport(seen: Transport | None, transfers: Sequence[tuple[float, int]]) -> CheckRecord:
    """The KV went over the best way that these two devices have, near enough to what a plain copy does there.

    `transfers` are (seconds, bytes) of the case's KV reads; the fastest shows what the transport can do here.
    """
    if seen is None:
        return not_applicable("transport", "no KV is handed over" if not transfers else "no plain copy was measured")
    if not transfers:
        return not_applicable("transport", "no KV was handed over")
    seconds, size = min(transfers, key=lambda read: read[0] / read[1])
    best = size / max(seconds, 1e-9)
    allowed = seen.allowed_s(size)
    evidence = (
        f"{seen.name}; best read {size / 1e6:.3g} MB in {seconds * 1e3:.3g} ms = {best / 1e9:.3g} GB/s, "
        f"{best / seen.ceiling:.2%} of a plain copy between the two devices ({seen.ceiling / 1e9:.3g} GB/s)"
    )
    if seen.cure:
        return judged("transport", False, f"{evidence}; {seen.cure}")
    told = f"; slower than the {allowed * 1e3:.3g} ms that this size may take" if seconds > allowed else ""
    return judged("transport", not told, evidence + told)


def cache(
    timelines: Sequence[Timeline],
    engines: Mapping[str, Counters],
    resets: Mapping[str, bool],
    declared: str,
    expected: Sequence[int],
) -> CheckRecord:
    """Every request met the prefix cache in the declared state: `expected` tokens of its prompt, no more and no less.

    `expected` has an entry for each of `timelines`. `engines` holds each engine's counts over the measured passes,
    `resets` what emptying each cache answered.
    """
    if not timelines:
        return not_applicable("cache", "no request was measured")
    found = [timeline.prefill_cached_tokens for timeline in timelines]
    wrong = [got for got, due in zip(found, expected, strict=True) if got is not None and got != due]
    counts = ", ".join(f"{name} {c.cache_hits} hits of {c.cache_queries} queried" for name, c in engines.items())
    each = f"{min(expected)}" if len(set(expected)) == 1 else f"{min(expected)} to {max(expected)}"
    evidence = f"{declared}: {each} prompt tokens a request from the cache; tokens: {counts}"
    if untold := sum(timeline.complete and timeline.prefill_cached_tokens is None for timeline in timelines):
        evidence += f"; of {untold} of {len(found)} requests the engine did not say"
    if wrong:
        evidence += f"; {len(wrong)} of {len(found)} requests had others, such as {wrong[0]}"
    if decode := (engines["decode"].prompt_cached or engines["decode"].cache_hits) if "decode" in engines else 0:
        evidence += f"; decode had {decode} prompt tokens of its own"
    hits = sum(counters.cache_hits for role, counters in engines.items() if role != "decode")
    if miscounted := not wrong and None not in found and hits != sum(expected):
        evidence += f"; {sum(expected)} hits were due"
    if refused := [name for name, emptied in resets.items() if not emptied]:
        evidence += f"; {', '.join(refused)} could not be emptied (blocks in use)"
    return judged("cache", not (untold or wrong or refused or decode or miscounted), evidence)


def client(timelines: Sequence[Timeline], lag: Lag, self_test: Lag | None) -> CheckRecord:
    """The client sent on time and its event loop came round, against the run's own TTFT and token gap.

    Of classes the quickest one's TTFT counts.

    Where no request has two tokens, that part of TTFT stands for the gap.
    """
    if not timelines:
        return not_applicable("client", "no request was measured")
    by_class: dict[str, list[float]] = {}
    for timeline in timelines:
        by_class.setdefault(timeline.class_name, []).append(metrics.ttft(timeline))
    ttft = min(map(median, by_class.values()))
    gap = median([gap for timeline in timelines for gap in metrics.itl(timeline) if gap > 0] or [SEND_LAG * ttft])
    send, loop, once = max(SEND_LAG * ttft, LOOP_LAG * gap), LOOP_LAG * gap, LOOP_MAX * gap
    evidence = (
        f"p99: sent {_ms(lag.send_p99)} late (at most {_ms(send)}), event loop {_ms(lag.loop_p99)} late (at most "
        f"{_ms(loop)}); event loop once {_ms(lag.loop_max)} late (at most {_ms(once)})"
    )
    if self_test is not None:
        evidence += f"; against a null engine {_ms(self_test.send_p99)} and {_ms(self_test.loop_p99)}"
    return judged("client", lag.send_p99 <= send and lag.loop_p99 <= loop and lag.loop_max <= once, evidence)


def pressure(engines: Mapping[str, Counters], allowed: bool) -> CheckRecord:
    """No request was preempted, unless the case is meant for that: it would have been computed twice.

    Of an open or a replayed load that is part of what it does to the engines.

    Every engine that lived has made a token by then; a role that counted none does not count.
    """
    preempted = sum(counters.preemptions for counters in engines.values())
    usage = ", ".join(f"{name} {counters.kv_usage_max:.0%}" for name, counters in engines.items())
    told = " (part of this load, or allowed by workload.allow_preemptions)" if preempted and allowed else ""
    evidence = f"{preempted} preemptions{told}; most KV in use: {usage}"
    if silent := [name for name, counters in engines.items() if not counters.generated]:
        evidence += f"; {', '.join(silent)} counted no token at all"
    return judged("pressure", not silent and (allowed or not preempted), evidence)


def parity(timelines: Sequence[Timeline], reference: Reference | NoReference, exact: bool) -> CheckRecord:
    """Greedy outputs of a sample of requests are the reference's; `reference` may be the reason why there is none."""
    if isinstance(reference, NoReference):
        return CheckRecord(check="parity", status=reference.status, evidence=reference.why)
    compared = [t for t in timelines if t.prompt_sha256 in reference.outputs and t.complete]
    if not compared:
        return not_applicable("parity", "no request of the sample finished")
    if alike(reference.outputs.values()):
        told = f"{reference.origin} gave all {len(reference.outputs)} sampled prompts the same tokens"
        return not_provable("parity", f"{told}: they depend on none, so that they prove nothing")
    found = {t.request: first_difference(reference.outputs[t.prompt_sha256], t, exact) for t in compared}
    wrong = {request: difference for request, difference in found.items() if difference and not difference.tie}
    ties = [difference for difference in found.values() if difference and difference.tie]
    same = sum(d.position if (d := found[t.request]) else len(t.token_ids) for t in compared)
    evidence = (
        f"{same} of {sum(len(t.token_ids) for t in compared)} tokens of {len(compared)} sampled requests are those of "
        f"{reference.origin}"
    )
    if ties:
        positions, widest = ", ".join(str(tie.position) for tie in ties), max(ties, key=lambda tie: tie.gap)
        evidence += f"; {len(ties)} of them differ by a near-tie (token {positions}; the widest {widest.how})"
        evidence += ", and what follows can't be compared"
    if not same and not wrong:
        return not_provable("parity", evidence)
    for request, difference in list(wrong.items())[:2]:
        evidence += f"; {request}: {difference.told}"
    return judged("parity", not wrong, evidence)


def window(steady: Sequence[Repeat], whole: Sequence[Repeat], concurrency: int) -> CheckRecord:
    """The measured window is neither ramp nor drain: every slot had a request in flight."""
    seconds, all_seconds = (sum(repeat.seconds for repeat in some) for some in (steady, whole))
    tokens = sum(repeat.output_tokens for repeat in steady)
    if seconds <= 0 or not tokens:
        return not_applicable("window", "no request was measured")
    full = sum(_seconds_in_flight(repeat, concurrency) for repeat in steady) / seconds
    rate = tokens / sum(repeat.steady_seconds for repeat in steady)
    counted, all_counted = (sum(map(_tokens_in_window, some)) for some in (steady, whole))
    evidence = (
        f"{concurrency} in flight during {full:.1%} of the windows; {all_seconds - seconds:.2f} s of "
        f"{all_seconds:.2f} s left out as ramp and drain; tokens/s {rate:.4g} by Little's law, counted "
        f"{counted / seconds:.4g} in the windows and {all_counted / all_seconds:.4g} over all"
    )
    return judged("window", full >= _FULL_LOAD, evidence)


def ttft_waterfall(timelines: Sequence[Timeline], device: str) -> CheckRecord:
    """The parts of TTFT are known: what none of them covers is small at the median of requests with long prompts."""
    if not timelines:
        return not_applicable("waterfall", "no request was measured")
    long = [timeline for timeline in timelines if timeline.prompt_tokens >= _WATERFALL_FROM]
    share, bound = median(map(waterfall.unattributed_share, long or timelines)), UNATTRIBUTED[device]
    evidence = f"{share:.1%} of TTFT unattributed at the median"
    if not long:
        return not_applicable("waterfall", f"{evidence}; bound only from {_WATERFALL_FROM} prompt tokens on")
    return judged("waterfall", abs(share) <= bound, f"{evidence}, at most {bound:.0%}")


def _seconds_in_flight(repeat: Repeat, concurrency: int) -> float:
    """Seconds of the window with at least `concurrency` requests between due and last token."""
    spans = ((timeline.scheduled, timeline.finished) for timeline in repeat.served)
    return covered(spans, repeat.started, repeat.ended, concurrency)


def _tokens_in_window(repeat: Repeat) -> int:
    """Tokens that reached the client in it, of whichever request."""
    return sum(repeat.started <= at <= repeat.ended for timeline in repeat.served for at in timeline.token_times)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
