"""requests.jsonl: a line for each repeat's window, and one for each request with a leg for each engine it passed.

Moments are seconds since the case's start. What measuring a run gave, reading these lines back gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from context_research.errors import UsageProblem
from context_research.records import store, upgrade
from context_research.records.base import Count, Record
from context_research.request import Leg, Phase, Timeline
from context_research.settings.workload import Slo

_DIGITS = 7
"""Moments are kept to a tenth of a microsecond."""


class WindowRecord(Record):
    """One measured pass: its window, and what rates and costs in it are counted by (measure/metrics.py, Repeat)."""

    kind: Literal["repeat"] = "repeat"
    case: str
    repeat: int
    started: float
    ended: float
    devices: int
    """GPUs that served; on CPU 1, the machine."""
    slo: Slo
    transfers: tuple[tuple[float, int], ...]
    """(seconds, bytes) of each handoff of the whole pass, ramp and drain too, by the connector's own records."""
    joules: float | None
    """Of the GPUs in the whole pass."""
    timed: bool = Field(default=False, exclude_if=lambda timed: not timed)
    """`started` and `ended` were set beforehand, and not by the requests that were measured."""
    class_slos: dict[str, Slo] = Field(default_factory=dict, exclude_if=lambda slos: not slos)
    due: dict[str, Count] = Field(default_factory=dict)
    """By class: how many requests were to be measured. Empty in files of earlier versions."""
    kv_usage: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict, exclude_if=lambda some: not some)
    """Engine -> (seconds, share of its KV pool in use) over the pass."""


class LegRecord(Record):
    """What one engine did for the request (request.Leg); the tokens stand with the request."""

    engine: str
    role: str
    sent: float | None
    queued: float | None
    started: float | None
    first_token: float | None
    read_started: float | None
    read_finished: float | None
    cached_tokens: int | None
    finish_reason: str | None

    @classmethod
    def of(cls, leg: Leg, origin: float) -> LegRecord:
        moments = {name: _since(getattr(leg, name), origin) for name in MOMENTS}
        return cls(
            engine=leg.engine,
            role=leg.role,
            cached_tokens=leg.cached_tokens,
            finish_reason=leg.finish_reason,
            **moments,
        )

    def leg(self) -> Leg:
        return Leg(**self.model_dump())


MOMENTS = ("sent", "queued", "started", "first_token", "read_started", "read_finished")
"""The fields of a leg that are moments: they are shifted by the clock's origin, all others are not."""


class RequestRecord(Record):
    """One request that was sent. `token_times` and `token_ids` are those that the client got."""

    kind: Literal["request"] = "request"
    case: str
    request: str
    prompt_sha256: str
    repeat: int
    phase: Phase
    scheduled: float
    prompt_tokens: int
    output_tokens_asked: int
    class_name: str = Field(default="", exclude_if=lambda name: not name)
    legs: tuple[LegRecord, ...]
    token_times: tuple[float, ...]
    token_ids: tuple[int, ...]
    error: str | None
    waterfall: dict[str, float] | None = None
    """Seconds of each part of TTFT; None where no token came."""

    @classmethod
    def of(
        cls, timeline: Timeline, case: str, origin: float, waterfall: dict[str, float] | None = None
    ) -> RequestRecord:
        """`timeline` with its moments as seconds since `origin`."""
        return cls(
            case=case,
            request=timeline.request,
            prompt_sha256=timeline.prompt_sha256,
            repeat=timeline.repeat,
            phase=timeline.phase,
            scheduled=round(timeline.scheduled - origin, _DIGITS),
            prompt_tokens=timeline.prompt_tokens,
            output_tokens_asked=timeline.output_tokens_asked,
            class_name=timeline.class_name,
            legs=tuple(LegRecord.of(leg, origin) for leg in timeline.legs),
            token_times=tuple(round(at - origin, _DIGITS) for at in timeline.token_times),
            token_ids=tuple(timeline.token_ids),
            error=timeline.error,
            waterfall=waterfall,
        )

    def timeline(self) -> Timeline:
        """Read back, but for the token ids, which are half of the memory."""
        made = Timeline(
            request=self.request,
            prompt_sha256=self.prompt_sha256,
            repeat=self.repeat,
            scheduled=self.scheduled,
            prompt_tokens=self.prompt_tokens,
            output_tokens_asked=self.output_tokens_asked,
            phase=self.phase,
            class_name=self.class_name,
            legs=[leg.leg() for leg in self.legs],
            error=self.error,
        )
        if made.answer is not None:
            made.answer.token_times = list(self.token_times)
        return made


class FileRecord(Record):
    """A requests.jsonl as the run wrote it."""

    lines: Count
    size: Count
    """In bytes."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        with path.open("rb") as stream:
            return cls._of(stream.read())

    @classmethod
    def _of(cls, content: bytes) -> FileRecord:
        return cls(lines=content.count(b"\n"), size=len(content), sha256=sha256(content).hexdigest())

    def check(self, path: Path, *, whole: bool) -> None:
        """Refuse a file that was cut or changed since. Raises UsageProblem.

        `whole` False: the run was ended, perhaps after a case's lines were written and before their record was.
        """
        try:
            with path.open("rb") as stream:
                found = self._of(stream.read(-1 if whole else self.size))
        except OSError as error:
            raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
        if found != self:
            raise UsageProblem(
                f"{path} was cut or changed after the run: {found.lines} lines, {found.size} bytes, sha256 "
                f"{found.sha256[:12]}; the run wrote {self.lines}, {self.size}, {self.sha256[:12]}"
            )


Line = Annotated[WindowRecord | RequestRecord, Field(discriminator="kind")]
_LINE: TypeAdapter[WindowRecord | RequestRecord] = TypeAdapter(Line)


def read(path: Path, count: int | None = None) -> Iterator[WindowRecord | RequestRecord]:
    """The first `count` lines of a requests.jsonl, upgraded; None: all.

    Raises UsageProblem: missing, corrupt, of another version.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(islice(lines, count), 1):
                try:
                    yield _LINE.validate_python(upgrade.request_line(store.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    told = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
                    raise UsageProblem(f"{path} is corrupt or from another version: line {number}: {told}") from None
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageProblem(f"{path} is corrupt, no text ({error})") from None


def _since(moment: float | None, origin: float) -> float | None:
    return None if moment is None else round(moment - origin, _DIGITS)
