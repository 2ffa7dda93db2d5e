"""One measured case, and its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from context_research.measure import metrics, overload, utilisation, waterfall
from context_research.measure.checks import machine
from context_research.measure.checks.evidence import Proof
from context_research.measure.client_lag import Lag
from context_research.measure.metrics import Metric, Repeat
from context_research.records import sent
from context_research.records.case import (
    ArrivalsRecord,
    CaseRecord,
    CheckRecord,
    ChecksSeconds,
    ClientRecord,
    HandoffRecord,
    LagRecord,
    OverloadRecord,
    RepeatRecord,
    Requests,
    Simulated,
    Tokens,
    Whole,
)
from context_research.records.requests import RequestRecord, WindowRecord
from context_research.request import Timeline
from context_research.workload import load
from context_research.workload.case import Case


@dataclass
class CaseResult:
    """One measured case.

    `repeats` hold completed requests in their windows, `whole` the same passes with ramp and drain; `timelines` every
    request that was sent, failed ones and the warm-up's too. `origin` is the case's start.
    """

    case: Case
    asked: int
    repeats: list[Repeat]
    whole: list[Repeat]
    timelines: list[Timeline]
    checks: list[CheckRecord]
    proof: Proof
    origin: float

    @property
    def failed(self) -> list[CheckRecord]:
        """Checks that failed and may not."""
        return [check for check in self.checks if check.fails]

    @property
    def failure(self) -> str | None:
        """The failed checks in one line, or None where there is none."""
        return "; ".join(f"{check.check}: {check.evidence}" for check in self.failed) or None

    def samples(self, of: Iterable[Metric]) -> dict[str, tuple[float, ...]]:
        """Every metric's samples over all repeats."""
        return metrics.samples(of, self.repeats, latencies=self._no_latencies is None)

    def windows(self) -> tuple[WindowRecord, ...]:
        """Each repeat's line in requests.jsonl."""
        return tuple(repeat.window(self.case.name, number, self.origin) for number, repeat in enumerate(self.repeats))

    def requests(self) -> tuple[RequestRecord, ...]:
        """Each request's line in requests.jsonl."""
        return tuple(
            RequestRecord.of(
                timeline, self.case.name, self.origin, waterfall.parts(timeline) if timeline.token_times else None
            )
            for timeline in self.timelines
        )

    def record(self, of: Iterable[Metric]) -> CaseRecord:
        """The case's entry in `<experiment>_summary.json`."""
        of = metrics.with_classes(of, self.repeats)
        measured = [timeline for repeat in self.repeats for timeline in repeat.timelines]
        counted, standing = self.proof.counted, self.proof.standing
        return CaseRecord(
            name=self.case.name,
            axes=dict(self.case.axes),
            requests=self._requests(),
            sent_sha256=sent.digest(self.timelines),
            tokens=self._tokens(),
            handoff=self._handoff(),
            preemptions=sum(counters.preemptions for counters in counted.values()),
            kv_usage_max={role: counters.kv_usage_max for role, counters in counted.items()},
            metrics=metrics.summaries(of, self.repeats, self._no_latencies),
            whole=Whole(
                metrics=metrics.summaries(of, self.whole, self._no_latencies),
                seconds=sum(repeat.seconds for repeat in self.whole),
            ),
            simulation=self._simulation(),
            roles=utilisation.summarize(self.repeats),
            joules=self._joules(),
            client=ClientRecord(lag=_lag(self.proof.client_lag), self_test=_lag(standing.self_test)),
            machine=machine.record(self.proof.load, self.proof.treatments),
            chunked_share=metrics.chunked_share(measured),
            repeats=tuple(
                RepeatRecord(
                    seconds=repeat.seconds,
                    steady_seconds=repeat.steady_seconds,
                    finished=len(repeat.timelines),
                    output_tokens=repeat.output_tokens,
                    metrics=metrics.summaries(of, [repeat], self._no_latencies),
                )
                for repeat in self.repeats
            ),
            waterfall={} if self._no_latencies else waterfall.summarize(measured),
            validity=tuple(self.checks),
            arrivals=self._arrivals(),
            attained=self._attained(),
            overload=self.overload,
            checks_s=ChecksSeconds(
                case=self.proof.seconds, parity_reference=self.proof.reference_s, run=standing.seconds
            ),
            status="invalid" if self.failed else "passed",
            failure=f"{self.case.name}: {self.failure}" if self.failed else None,
        )

    @property
    def _sent(self) -> list[Timeline]:
        return [timeline for timeline in self.timelines if timeline.phase != "warmup"]

    def _requests(self) -> Requests:
        return Requests(
            asked=self.asked,
            finished=sum(timeline.complete for timeline in self._sent if timeline.phase == "measured"),
            around=sum(timeline.phase != "measured" for timeline in self._sent),
        )

    def _tokens(self) -> Tokens:
        sent, decode = self._sent, self.proof.counted.get("decode")
        cached = sum(timeline.prefill_cached_tokens or 0 for timeline in sent)
        return Tokens(
            prompt=sum(timeline.prompt_tokens for timeline in sent),
            output=sum(len(timeline.token_times) for timeline in sent),
            prompt_cached=cached + (decode.prompt_cached if decode else 0),
            prompt_computed_on_decode=sum(t.computed_on_decode or 0 for t in sent) if decode else None,
            prompt_external=decode.prompt_external if decode else 0,
        )

    def _handoff(self) -> HandoffRecord:
        decode, chosen = self.proof.counted.get("decode"), self.case.settings.serving.handoff
        transfers = decode.transfers if decode else []
        return HandoffRecord(
            connector=chosen.connector if chosen else None,
            transfers=len(transfers),
            failed=sum(self.proof.faults.values()),
            faults=self.proof.faults,
            bytes=sum(size for _, size in transfers),
            copy_ceiling=self.proof.standing.ceiling,
        )

    @cached_property
    def overload(self) -> OverloadRecord | None:
        """Whether a timed load was too much for its engines."""
        if not self.case.settings.workload.timed or not self.repeats:
            return None
        grown = [overload.backlog(repeat) for repeat in self.repeats]
        slope = sum(each.in_flight.slope for each in grown) / len(grown)
        p = tuple(each.in_flight.p for each in grown)
        return OverloadRecord(overloaded=overload.overloaded(grown), slope=slope, p=p)

    @property
    def _no_latencies(self) -> str | None:
        """Why there are no figures of latencies, if there are none."""
        if self.overload is None or not self.overload.overloaded:
            return None
        return (
            f"overloaded: the backlog grew by {self.overload.slope:.3g} requests/s; a latency would only say how long "
            "the run was"
        )

    def _arrivals(self) -> ArrivalsRecord | None:
        if self.overload is None:
            return None
        trace, given = load.taken(self.case), self.case.settings.workload.trace
        due = sum((Counter(repeat.due) for repeat in self.repeats), Counter[str]())
        moments = ((t.scheduled for t in repeat.served if t.phase == "measured") for repeat in self.repeats)
        gaps = np.concatenate([np.diff(np.sort(list(some))) for some in moments])
        return ArrivalsRecord(
            due=dict(due),
            rate=sum(due.values()) / sum(repeat.seconds for repeat in self.repeats),
            cv=float(gaps.std() / gaps.mean()) if gaps.size > 1 else None,
            left_out=trace.left_out if trace else 0,
            trace_sha256=trace.sha256 if trace else None,
            spread_s=trace.tick if trace and given and given.ticks == "spread" else None,
        )

    def _attained(self) -> tuple[tuple[int, int], ...]:
        """Requests that met each of the settings' SLOs, and those that were due, over all windows of a timed load."""
        if self.overload is None:
            return ()
        found = []
        for slo in self.case.settings.slos:
            each = [one for repeat in self.repeats for one in metrics.attainment(replace(repeat, slo=slo))]
            found.append((int(sum(each)), len(each)))
        return tuple(found)

    def _joules(self) -> float | None:
        """What the GPUs used over all passes; None where that is not known of each."""
        used = [repeat.joules for repeat in self.whole if repeat.joules is not None]
        return sum(used) if len(used) == len(self.whole) else None

    def _simulation(self) -> Simulated | None:
        """Steps of the simulated engines; None where they were real."""
        if self.proof.topology.backend.measured:
            return None
        counted = self.proof.counted.values()
        return Simulated(steps=sum(c.steps for c in counted), extrapolated=sum(c.extrapolated for c in counted))


def _lag(lag: Lag | None) -> LagRecord | None:
    return LagRecord(send_p99=lag.send_p99, loop_p99=lag.loop_p99, loop_max=lag.loop_max) if lag else None
