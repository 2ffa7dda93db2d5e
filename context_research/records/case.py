"""The record of one measured case: made once, by `measure`, and read through the same classes everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue

from context_research.records.base import Count, Record
from context_research.records.requests import RequestRecord, WindowRecord
from context_research.records.run import EngineRecord
from context_research.settings.schema import Mode

Status = Literal["pass", "fail", "n/a", "not provable"]


class Distribution(Record):
    """Samples in `unit`; None where there are none, or too few for that percentile (measure/metrics.py)."""

    unit: str
    count: Count
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    missing: str | None = Field(default=None, exclude_if=lambda reason: reason is None)
    """Why there are no figures although there are samples."""

    def value(self, statistic: str) -> float | None:
        """``mean``, ``p50``, …. Raises AttributeError for another word."""
        found: float | None = getattr(self, statistic)
        return found


class MetricRecord(Distribution):
    """One metric. `statistic` stands for the samples where two cases are compared."""

    lower_is_better: bool = True
    statistic: str = "p50"


Metrics = dict[str, MetricRecord]


class CheckRecord(Record):
    """One check's outcome. `evidence` is one line with the figures behind it; `allowed`: by --allow-invalid."""

    check: str
    status: Status
    evidence: str
    allowed: bool = False

    @property
    def fails(self) -> bool:
        """It failed, and may not."""
        return self.status == "fail" and not self.allowed


class Requests(Record):
    """`asked` and `finished` are the measured ones, `around` those that kept the load up."""

    asked: Count
    finished: Count
    around: Count = 0


class Tokens(Record):
    """By origin. `prompt_computed_on_decode` is None in aggregated mode."""

    prompt: Count
    output: Count
    prompt_cached: Count = 0
    prompt_computed_on_decode: int | None
    prompt_external: Count


class HandoffRecord(Record):
    """KV transfers. `copy_ceiling`: bytes a second of a plain copy between the same devices."""

    connector: str | None
    transfers: Count
    failed: Count
    faults: dict[str, int] = Field(default_factory=dict)
    bytes: Count
    copy_ceiling: float | None = None


class Whole(Record):
    """The same passes with ramp and drain."""

    metrics: Metrics
    seconds: float


class Simulated(Record):
    """Steps of simulated engines, and those whose duration is extrapolated."""

    steps: Count
    extrapolated: Count


class RoleRecord(Record):
    """What a role did (measure/utilisation.py)."""

    tokens_per_s: float
    busy_share: float


class LagRecord(Record):
    """How late the client was, in seconds (measure/client_lag.py)."""

    send_p99: float
    loop_p99: float
    loop_max: float


class ClientRecord(Record):
    lag: LagRecord | None
    self_test: LagRecord | None
    """Against engines that compute nothing."""


class GpuLoadRecord(Record):
    """One card after the case: share of the time that heat slowed it, its clock, why no more, others' processes."""

    hot: float | None
    clock_mhz: float | None
    reasons: tuple[str, ...] = ()
    foreign: tuple[int, ...] = ()


class MachineLoadRecord(Record):
    """What else the machine did while the case was measured (hardware/load.py), as shares of that time."""

    others: float
    stolen: float
    throttled: float | None
    load_average: float
    gpus: dict[str, GpuLoadRecord] = Field(default_factory=dict)
    niceness: dict[str, list[int]] = Field(default_factory=dict)
    cores: dict[str, list[int]] = Field(default_factory=dict)


class RepeatRecord(Record):
    """One measured pass: its window, and what completed in it. Rates are per steady second (docs/metrics.md)."""

    seconds: float
    steady_seconds: float | None
    finished: Count
    output_tokens: Count
    metrics: Metrics


class ArrivalsRecord(Record):
    """An open or replayed load as it was: requests due in the windows by class (empty name: without one), how many a
    second, the coefficient of variation of their gaps.

    Of a trace: its file's hash, rows that were left out as their prompts are too long, and the seconds of its clock's
    grid over which moments were spread by the seed; None where they were left as they are."""

    due: dict[str, Count]
    rate: float
    cv: float | None
    left_out: Count = 0
    trace_sha256: str | None = None
    spread_s: float | None = None


class OverloadRecord(Record):
    """Whether requests came faster than they were served (measure/overload.py): `slope` is by how many a second the
    backlog grew, the mean of the repeats; `p` each one's."""

    overloaded: bool
    slope: float
    p: tuple[float, ...]


class ChecksSeconds(Record):
    """What proving took: this case's checks, its parity reference, what is found out once a run."""

    case: float
    parity_reference: float
    run: float


class CaseRecord(Record):
    """One entry of `<experiment>_summary.json`. Times in seconds, sizes in bytes."""

    name: str
    axes: dict[str, JsonValue]
    requests: Requests
    sent_sha256: str | None = None
    """What the case was sent (records/sent.py); None in files of earlier versions."""
    tokens: Tokens
    handoff: HandoffRecord
    preemptions: Count = 0
    kv_usage_max: dict[str, float] = Field(default_factory=dict)
    """By role: the peak share of the KV pool, of the fuller engine where there are several."""
    metrics: Metrics
    whole: Whole | None = None
    simulation: Simulated | None = None
    """None where real engines ran."""
    roles: dict[str, RoleRecord] = Field(default_factory=dict)
    joules: float | None = None
    """Of the GPUs over all passes."""
    client: ClientRecord | None = None
    machine: MachineLoadRecord | None = None
    """None where no real engine ran."""
    chunked_share: float | None = None
    """Of the token gaps that are 0, as their tokens came in one chunk."""
    repeats: tuple[RepeatRecord, ...] = ()
    waterfall: dict[str, Distribution]
    """Part of TTFT -> its seconds over completed requests."""
    validity: tuple[CheckRecord, ...]
    arrivals: ArrivalsRecord | None = Field(default=None, exclude_if=lambda none: none is None)
    """None in a closed loop."""
    attained: tuple[tuple[Count, Count], ...] = Field(default=(), exclude_if=lambda none: not none)
    """Of a timed load, for each of the settings' SLOs: how many requests met it, and how many were due."""
    overload: OverloadRecord | None = Field(default=None, exclude_if=lambda none: none is None)
    """None in a closed loop: what is in flight is bounded there."""
    checks_s: ChecksSeconds | None = None
    status: Literal["passed", "failed", "invalid"]
    failure: str | None = None
    reruns: tuple[str, ...] = Field(default=(), exclude_if=lambda before: not before)
    """What failed before, where a plugin (pytest-rerunfailures) ran the test again: all else is of the last time."""

    @property
    def failed(self) -> list[CheckRecord]:
        """The checks that failed and may not."""
        return [check for check in self.validity if check.fails]

    @property
    def allowed(self) -> list[CheckRecord]:
        """The checks that failed and may (--allow-invalid)."""
        return [check for check in self.validity if check.status == "fail" and check.allowed]

    @property
    def not_provable(self) -> list[CheckRecord]:
        """The checks whose evidence can't be had here."""
        return [check for check in self.validity if check.status == "not provable"]

    @property
    def overloaded(self) -> bool:
        """Whether there was no steady state: attainment and rates are figures, latencies are not."""
        return self.overload is not None and self.overload.overloaded

    @property
    def counts(self) -> bool:
        """Whether its figures may be compared: no check failed, not even one that may."""
        return not self.failed and not self.allowed

    @property
    def extrapolated_share(self) -> float:
        """Of a simulated case's steps; 0 of a real one's."""
        return (
            self.simulation.extrapolated / self.simulation.steps if self.simulation and self.simulation.steps else 0.0
        )


class FinishedCase(Record):
    """What a case leaves on its test's report, which may cross processes: its record, its requests, its rows."""

    nodeid: str
    experiment: str
    backend: str
    device: str
    """As rows name it."""
    mode: Mode
    topology: str
    """``1P1D ×2``: engines and devices."""
    model_label: str
    work: str
    """Of a row's name: what was computed, so that figures of different work never meet."""
    run_id: str
    case: CaseRecord
    samples: Mapping[str, tuple[float, ...]]
    """Of the metrics that become rows, in seconds."""
    windows: tuple[WindowRecord, ...]
    requests: tuple[RequestRecord, ...]
    engines: tuple[EngineRecord, ...]
