"""One measured pass over a case's requests: its window, what completed, what was served around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from context_research.measure.intervals import covered
from context_research.measure.requests import e2e
from context_research.records.requests import WindowRecord
from context_research.request import Timeline
from context_research.settings.workload import Slo

Usage = Mapping[str, Sequence[tuple[float, float]]]
"""Engine -> (perf_counter seconds, share of its KV pool in use)."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """One measured pass: its window in perf_counter seconds, and what completed.

    `timelines` are the requests whose latencies count; `served` all that were served in the pass, as the load is
    everything in flight. `transfers` holds the connector's own records of the pass's handoffs, (seconds, bytes) each;
    `devices` is the number of GPUs (on CPU: 1, the machine) that served.
    """

    started: float
    ended: float
    timelines: Sequence[Timeline]
    served: Sequence[Timeline]
    transfers: Sequence[tuple[float, int]] = ()
    devices: int = 1
    joules: float | None = None
    """What the serving GPUs used over the whole pass; None where that is not known."""
    slo: Slo = field(default_factory=Slo)
    class_slos: Mapping[str, Slo] = field(default_factory=dict)
    """Of the classes that have their own in place of `slo`."""
    due: Mapping[str, int] = field(default_factory=dict)
    """By class: how many requests were to be measured, whatever became of them. Empty: as many as completed."""
    timed: bool = False
    """Its window was set beforehand: an open or a replayed load's. A closed loop's is that of its requests."""
    kv_usage: Usage = field(default_factory=dict)
    _steady: float | None = None

    @classmethod
    def of(
        cls,
        timelines: Iterable[Timeline],
        served: Sequence[Timeline],
        *,
        window: tuple[float, float] | None = None,
        due: Mapping[str, int] | None = None,
        **more: Any,
    ) -> Repeat:
        """Of `timelines` those that completed count; `more` are fields.

        Without a `window`, it is from when the first of them was due to the last one's end.
        """
        asked = list(timelines)
        first = min((timeline.scheduled for timeline in asked), default=0.0)
        last = max((timeline.finished or timeline.scheduled for timeline in asked), default=0.0)
        started, ended = window or (first, last)
        return cls(
            started=started,
            ended=ended,
            timelines=[timeline for timeline in asked if timeline.complete],
            served=served,
            due=Counter(timeline.class_name for timeline in asked) if due is None else due,
            timed=window is not None,
            **more,
        )

    def with_all(self) -> Repeat:
        """The same pass, ramp and drain counted too."""
        kept = ("transfers", "devices", "joules", "slo", "class_slos", "kv_usage")
        return Repeat.of(self.served, self.served, **{name: getattr(self, name) for name in kept})

    def of_class(self, name: str) -> Repeat:
        """The same pass, seen by one class of its requests. What the devices did is not told apart by class."""
        own = ([each for each in some if each.class_name == name] for some in (self.timelines, self.served))
        timelines, served = own
        return replace(
            self,
            timelines=timelines,
            served=served,
            transfers=(),
            joules=None,
            due={name: self.asked.get(name, 0)},
            _steady=self.steady_seconds,
        )

    @property
    def classes(self) -> list[str]:
        """Names of the load's classes; none where it has none."""
        return [name for name in self.asked if name]

    @property
    def asked(self) -> Mapping[str, int]:
        """By class: how many requests were to be measured."""
        return self.due or Counter(timeline.class_name for timeline in self.timelines)

    @property
    def requests(self) -> int:
        """How many were to be measured."""
        return sum(self.asked.values())

    def window(self, case: str, number: int, origin: float) -> WindowRecord:
        """What of this pass is in no request's line."""
        return WindowRecord(
            case=case,
            repeat=number,
            started=self.started - origin,
            ended=self.ended - origin,
            devices=self.devices,
            slo=self.slo,
            transfers=tuple(self.transfers),
            joules=self.joules,
            timed=self.timed,
            class_slos=dict(self.class_slos),
            due=dict(self.due),
            kv_usage={
                engine: tuple((round(at - origin, 3), round(share, 4)) for at, share in some)
                for engine, some in self.kv_usage.items()
            },
        )

    @classmethod
    def read(cls, window: WindowRecord, served: Sequence[Timeline]) -> Repeat:
        """The pass as it was measured, from its lines in requests.jsonl."""
        measured = (timeline for timeline in served if timeline.phase == "measured")
        return cls.of(
            measured,
            served,
            window=(window.started, window.ended) if window.timed else None,
            due=window.due or None,
            transfers=window.transfers,
            devices=window.devices,
            joules=window.joules,
            slo=window.slo,
            class_slos=window.class_slos,
            kv_usage=window.kv_usage,
        )

    def slo_of(self, timeline: Timeline) -> Slo:
        """What a request has to meet: its class's objectives, or everybody's."""
        return self.class_slos.get(timeline.class_name, self.slo)

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def steady_seconds(self) -> float:
        """Seconds in which a steady state of this load serves as much as `timelines` did; what rates are divided by.

        Of a timed load: the window, in which they were due. Of a closed loop, by Little's law: their end-to-end times ÷
        requests in flight, the window's mean. A count in the window itself is off by a wave of requests at its ends
        (docs/metrics.md). 0 where nothing completed; of a pass with failed requests, which is invalid, it says little.
        """
        if self._steady is not None:
            return self._steady
        if self.timed:
            return self.seconds if self.timelines else 0.0
        spans = [(each.scheduled, each.token_times[-1]) for each in self.served if each.token_times]
        held = sum(covered([span], self.started, self.ended) for span in spans)
        return sum(map(e2e, self.timelines)) * self.seconds / held if held else 0.0

    @property
    def output_tokens(self) -> int:
        """Of `timelines`; of a timed load those that reached the client in the window, of whichever request."""
        if self.timed:
            return sum(self.contains(at) for timeline in self.served for at in timeline.token_times)
        return sum(len(timeline.token_times) for timeline in self.timelines)

    @property
    def prefilled(self) -> Sequence[Timeline]:
        """Whose prompts count in rates: `timelines`; of a timed load those whose first token came in the window."""
        if self.timed:
            return [each for each in self.served if each.token_times and self.contains(each.token_times[0])]
        return self.timelines

    @property
    def prompt_tokens(self) -> int:
        """Of `prefilled`."""
        return sum(timeline.prompt_tokens for timeline in self.prefilled)

    @property
    def finished(self) -> int:
        """How many of `timelines`; of a timed load how many requests ended in the window, due then or before."""
        if self.timed:
            return sum(t.complete and self.contains(t.token_times[-1]) for t in self.served)
        return len(self.timelines)

    def contains(self, moment: float) -> bool:
        """Whether a moment is in the window."""
        return self.started <= moment <= self.ended
