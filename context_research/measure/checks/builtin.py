"""The checks that every run has, in the order in which they are shown. What each proves: docs/validity.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from context_research.engines.base import Evidence
from context_research.measure.checks import (
    clocks,
    first_token,
    judge,
    kv_probe,
    machine,
    output_parity,
    sent_load,
    timed_window,
    token_counts,
)
from context_research.measure.checks.registry import CaseEvidence, Check
from context_research.models import capacity
from context_research.records.case import CheckRecord
from context_research.settings.schema import Settings

_ONE_ENGINE = "aggregated: prefill and decode run on one engine"


def _of_handoff(why: str) -> Callable[[Settings], str | None]:
    """A check's `not_due` that is for disaggregated serving alone."""
    return lambda settings: why if settings.serving.handoff is None else None


def _disaggregated(evidence: CaseEvidence) -> CheckRecord:
    return judge.disaggregated(
        evidence.sent,
        evidence.counted.get("decode"),
        evidence.faults,
        capacity.block_tokens(evidence.settings),
        evidence.model.kv_bytes_per_token,
    )


def _tokens(evidence: CaseEvidence) -> CheckRecord:
    handed_over = evidence.settings.serving.handoff is not None
    return token_counts.judge(evidence.sent, evidence.by_engine, evidence.ours, handed_over)


def _clock(evidence: CaseEvidence) -> CheckRecord:
    closed = evidence.settings.workload.arrivals == "closed"
    return clocks.judge(evidence.sent, evidence.case.concurrency if closed else None, evidence.client_lag.loop_p99)


def _machine(evidence: CaseEvidence) -> CheckRecord:
    allowed = evidence.settings.machine
    return machine.judge(
        evidence.load, evidence.treatments, allowed.other_load, evidence.own_niceness, allowed.share_devices
    )


def _first_token(evidence: CaseEvidence) -> CheckRecord:
    settings, exact = evidence.settings, output_parity.is_exact(evidence.model)
    sampled = settings.workload.temperature > 0
    return first_token.judge(evidence.sent, evidence.looked_up, settings.device, exact=exact, sampled=sampled)


def _handoff_not_due(settings: Settings) -> str | None:
    """Of checks of the KV that was handed over, for which outputs have to depend on it."""
    if settings.serving.handoff is None:
        return _ONE_ENGINE
    return output_parity.inapplicable(settings) if settings.model.weights == "dummy" else None


def _cache(evidence: CaseEvidence) -> CheckRecord:
    declared = str(evidence.settings.workload.cache)
    expected = [capacity.cached_tokens(evidence.settings, timeline.prompt_tokens) for timeline in evidence.sent]
    return judge.cache(evidence.sent, evidence.counted, evidence.resets, declared, expected)


def _whole(evidence: CaseEvidence) -> bool:
    """Whether no request failed."""
    return not any(timeline.error for timeline in evidence.timelines)


def _window(evidence: CaseEvidence) -> CheckRecord:
    if evidence.settings.workload.timed:
        return timed_window.judge(evidence.steady, evidence.plans, evidence.settings.workload)
    return judge.window(evidence.steady, evidence.whole, evidence.case.concurrency or 1)


def _window_not_due(settings: Settings) -> str | None:
    known = settings.workload.timed or settings.workload.arrivals == "closed"
    return None if known else f"arrivals {settings.workload.arrivals} have no window that we know"


def _reads(evidence: CaseEvidence) -> Sequence[tuple[float, int]]:
    """(seconds, bytes) of each KV read as its request had to wait for it.

    NIXL's own records leave out what a connector does around a transfer; they are used where no others are.
    """
    decode, block = evidence.counted.get("decode"), capacity.block_tokens(evidence.settings)
    if decode is None:
        return []
    size = block * evidence.model.kv_bytes_per_token
    sizes = {timeline.request: -(-timeline.prompt_tokens // block) * size for timeline in evidence.sent}
    # vLLM appends a suffix of its own to a request's id.
    read = [(end - start, sizes.get(name) or sizes.get(name.rpartition("-")[0])) for name, start, end in decode.reads]
    return [(seconds, count) for seconds, count in read if count] or decode.transfers


BUILT_IN = (
    Check("complete", lambda e: judge.complete(e.asked, e.timelines, e.dead, e.replaced)),
    Check("load", lambda e: sent_load.judge(e.settings.workload, e.plans, e.sent, _whole(e))),
    Check("tokens", _tokens, frozenset({Evidence.COUNTS})),
    Check(
        "disaggregated",
        _disaggregated,
        frozenset({Evidence.COUNTS, Evidence.TRANSFERS, Evidence.CACHED_TOKENS}),
        _of_handoff(_ONE_ENGINE),
    ),
    Check(
        "transport",
        lambda e: judge.transport(e.transport, _reads(e)),
        frozenset({Evidence.TRANSFERS, Evidence.LOG}),
        _of_handoff("no KV is handed over"),
    ),
    Check("cache", _cache, frozenset({Evidence.COUNTS, Evidence.CACHED_TOKENS, Evidence.RESETS})),
    Check("client", lambda e: judge.client(e.measured, e.client_lag, e.self_test), frozenset({Evidence.WALL_TIME})),
    Check("clock", _clock, frozenset({Evidence.CLOCK, Evidence.WALL_TIME})),
    Check(
        "machine",
        _machine,
        frozenset({Evidence.WALL_TIME}),
    ),
    Check(
        "pressure",
        lambda e: judge.pressure(e.counted, e.settings.workload.allow_preemptions or e.settings.workload.timed),
        frozenset({Evidence.COUNTS}),
    ),
    Check(
        "parity",
        lambda e: judge.parity(e.sent, e.reference, output_parity.is_exact(e.model)),
        frozenset({Evidence.OUTPUTS, Evidence.RESETS}),
        output_parity.inapplicable,
    ),
    Check("first_token", _first_token, frozenset({Evidence.OUTPUTS}), _handoff_not_due),
    Check(
        "kv",
        lambda e: kv_probe.judge(e.probes, e.model.dtype, e.settings.device),
        frozenset({Evidence.ALTERNATIVES, Evidence.OUTPUTS, Evidence.RESETS}),
        _handoff_not_due,
    ),
    Check("window", _window, not_due=_window_not_due),
    Check(
        "waterfall",
        lambda e: judge.ttft_waterfall(e.measured, e.settings.device),
        frozenset({Evidence.CLOCK}),
    ),
)
PARITY = next(check for check in BUILT_IN if check.name == "parity")
KV = next(check for check in BUILT_IN if check.name == "kv")
