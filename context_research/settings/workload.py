"""The load of a run: which requests there are, when they are sent, and what is asked of their latencies."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from context_research.settings.base import Integer, Number, Positive, Section, Switch

Seconds = Annotated[Number, Field(ge=0)]
Above0 = Annotated[Number, Field(gt=0)]
TokenCount = Annotated[Integer, Field(gt=0, lt=1 << 31)]
Cv = Annotated[Number, Field(ge=0.01, le=100)]
"""Beyond it no gap can be told from none."""
Scale = Annotated[Number, Field(gt=0, le=1e6)]
ClassName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Slo(Section):
    """Service level objectives in seconds, any of them: a request met them if it met every one given (docs/metrics.md).

    `stall` is the longest gap between two tokens.
    """

    ttft: Above0 | None = None
    tpot: Above0 | None = None
    e2e: Above0 | None = None
    stall: Above0 | None = None
    attainment: Annotated[Number, Field(gt=0, lt=1)] = 0.9
    """The share of requests that have to meet them: what capacity is the highest rate of."""

    @property
    def limits(self) -> dict[str, float]:
        """Those that are given, by name, in seconds."""
        every = {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e, "stall": self.stall}
        return {name: limit for name, limit in every.items() if limit is not None}

    @property
    def given(self) -> bool:
        return bool(self.limits)


_LEAST_MAX = 1.2
"""In the limit of the widest distribution max / p50 is (p90 / p50) to the power of ln 2 / ln 1.8, 1.18."""


class Uniform(Section):
    """Every whole number of tokens from `low` to `high` is equally likely."""

    low: TokenCount
    high: TokenCount

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        if self.low > self.high:
            raise ValueError("low is over high")
        return self


class Lognormal(Section):
    """A lognormal distribution without what is over `max`, such that what is left has this median and p90."""

    p50: TokenCount
    p90: TokenCount
    max: TokenCount

    @model_validator(mode="after")
    def _in_order(self) -> Lognormal:
        if not self.p50 < self.p90 <= self.max:
            raise ValueError("p50 < p90 <= max is asked for")
        if self.max < (least := ceil(self.p50 * (self.p90 / self.p50) ** _LEAST_MAX)):
            raise ValueError(f"no lognormal that ends at {self.max} has this p50 and p90: a max of {least} or more")
        return self


Length = TokenCount | Uniform | Lognormal
"""Tokens: always as many, or drawn."""


def _one_length(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    # Pydantic would complain of one of the alternatives, and perhaps not of the right one.
    try:
        return check(value)
    except ValidationError as error:
        wanted = {frozenset(kind.model_fields): kind for kind in (Uniform, Lognormal)}
        kind = wanted.get(frozenset(value)) if isinstance(value, dict) else None
        # Its place in pydantic's words: the alternative, such as `function-after[_in_order(), Uniform]`, then the key.
        own = next((each for each in error.errors() if kind and kind.__name__ in str(each["loc"][0])), None)
        why = f": {own['msg'].removeprefix('Value error, ')}" if own else ""
        raise ValueError(f"should be a number of tokens, {{low: , high: }} or {{p50: , p90: , max: }}{why}") from None


class LoadClass(Section):
    """A named part of the load: `share` of the requests (shares are relative), their lengths, SLOs of their own.

    `rows` is a trace's file in place of `prompt` and `output`: each request has the lengths of one of its rows, drawn
    at random. Of a replayed trace, whose rows name their classes, only `slo` is given.
    """

    share: Scale = 1.0
    prompt: Length | None = None
    output: Length | None = None
    rows: Annotated[str, Field(min_length=1)] | None = None
    slo: Slo | None = None

    _lengths = field_validator("prompt", "output", mode="wrap")(_one_length)


class Trace(Section):
    """Requests as they were recorded somewhere: their moments and lengths (workload/traces.py has the formats).

    Replayed are the rows from `start_s` on, `seconds` of them, or those of `rows` (first, end); moments × `time_scale`:
    0.5 is twice the rate. Rows with prompts over `longest_prompt` are left out, and counted. Moments on a coarse grid
    (Mooncake's have ticks of 3 s) are spread within their tick by the seed, unless `ticks` is `exact`.
    """

    file: Annotated[str, Field(min_length=1)]
    format: Literal["auto", "mooncake", "azure", "rows"] = "auto"
    start_s: Seconds = 0.0
    seconds: Above0 | None = None
    rows: tuple[Annotated[Integer, Field(ge=0)], Positive] | None = None
    time_scale: Scale = 1.0
    longest_prompt: Positive | None = None
    ticks: Literal["spread", "exact"] = "spread"

    @model_validator(mode="after")
    def _one_slice(self) -> Trace:
        if self.rows is not None and (self.start_s or self.seconds is not None):
            raise ValueError("a slice is given by its rows, or by start_s and seconds, not by both")
        if self.rows is not None and self.rows[0] >= self.rows[1]:
            raise ValueError("rows are [first, end], and end is over first")
        return self


class Primed(Section):
    """A prefix cache that holds the first part of every prompt: `primed` is its share of the prompt's tokens."""

    primed: Annotated[Number, Field(gt=0, lt=1)]


class Workload(Section):
    """Which requests there are, and when they are sent.

    Lengths are those of `prompt_lengths` (a case each) and `output_tokens`, or of `classes`, or of a `trace`.
    `length_spread` 0.2 lets both lengths of a request vary evenly by ±20 % about what they are.

    `arrivals`: `closed` keeps `concurrency` requests in flight (a case for each), `requests` of them measured in a
    repeat, at least as many as are in flight; with more than one, others before and after them keep the load whole.
    `open` sends `rate` a second, whatever is in flight, with gaps of a gamma distribution of coefficient of variation
    `cv` (1: Poisson); `replay` sends a trace's rows at their moments. Both run for `warmup_s`, then measure what is due
    in `window_s`; a trace without `window_s` is measured to its end.

    `warmup_requests` are sent before a case's first repeat. `cache` is the state of the prefix cache that each request
    meets: `cold`, `warm` (it holds the whole prompt) or `primed: 0.5`. `allow_preemptions`: the case is meant to be
    under pressure; open and replayed loads are.
    """

    prompt_lengths: tuple[Positive, ...] = ()
    concurrency: tuple[Positive, ...] = ()
    arrivals: Annotated[str, Field(min_length=1)] = "closed"
    rate: Above0 | None = None
    cv: Cv = 1.0
    warmup_s: Seconds = 10.0
    window_s: Above0 | None = None
    classes: dict[ClassName, LoadClass] = Field(default_factory=dict)
    trace: Trace | None = None
    output_tokens: Length = 128
    length_spread: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    requests: Positive = 17
    repeats: Positive = 3
    warmup_requests: Annotated[Integer, Field(ge=0)] = 2
    request_timeout_s: Above0 = 300.0
    temperature: Seconds = 0.0
    cache: Literal["cold", "warm"] | Primed = "cold"
    allow_preemptions: Switch = False

    _output = field_validator("output_tokens", mode="wrap")(_one_length)

    @property
    def primed_share(self) -> float:
        """Share of each prompt that the prefix cache holds when the request is sent."""
        return self.cache.primed if isinstance(self.cache, Primed) else {"cold": 0.0, "warm": 1.0}[self.cache]

    @property
    def timed(self) -> bool:
        """Whether requests are due at moments that are known beforehand: an open or a replayed load."""
        return self.arrivals in ("open", "replay")

    @property
    def class_slos(self) -> Mapping[str, Slo]:
        """Of the classes that have SLOs of their own."""
        return {name: each.slo for name, each in self.classes.items() if each.slo is not None}

    @field_validator("cache", mode="wrap")
    @classmethod
    def _one_of_three(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        # Pydantic would complain of one of the alternatives, and not of the right one.
        try:
            return check(value)
        except ValidationError:
            raise ValueError("must be cold, warm, or primed: a share between 0 and 1") from None

    @field_validator("prompt_lengths", "concurrency")
    @classmethod
    def _once(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        # A case that ran twice would send its prompts twice, and measure a warm prefix cache.
        if len(set(values)) < len(values):
            raise ValueError("a value is given twice")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Workload:
        if why := _contradiction(self):
            raise PydanticCustomError("contradiction", "{why}", {"why": why})
        return self


def _contradiction(load: Workload) -> str | None:
    """Why these settings describe no load; None where they do."""
    lengths = {"prompt_lengths": load.prompt_lengths, "classes": load.classes, "trace": load.trace}
    given = [name for name, value in lengths.items() if value]
    if load.arrivals == "replay":
        if load.trace is None:
            return "arrivals: replay needs a trace: {file: …}"
        if load.prompt_lengths:
            return "a replayed trace has its own prompt lengths: leave prompt_lengths out"
        if own := [name for name, each in load.classes.items() if each.prompt or each.output or each.rows]:
            return f"classes.{own[0]}: a replayed trace has its own lengths; a class of it can have an slo alone"
    elif load.trace is not None:
        return f"a trace is for arrivals: replay, not for {load.arrivals}; a class can have its lengths (rows: FILE)"
    elif len(given) != 1:
        told = f"both are given: {' and '.join(given)}" if given else "neither is given"
        return f"lengths come from prompt_lengths or from classes, and {told}"
    if "all" in load.classes:
        return "classes.all: tables have that name for all requests together"
    for name, each in load.classes.items():
        if load.arrivals != "replay" and (each.rows is None) == (each.prompt is None):
            return f"classes.{name}: give its prompt (and output), or rows: FILE"
        if each.rows and each.output:
            return f"classes.{name}: rows have their own output lengths: leave output out"
    if load.arrivals == "closed" and not load.concurrency:
        return "arrivals: closed needs a concurrency"
    if load.timed and load.concurrency:
        return f"arrivals: {load.arrivals} bounds nothing in flight: leave concurrency out"
    if (load.arrivals == "open") != (load.rate is not None):
        return "a rate (requests a second) belongs to arrivals: open, and only there"
    if load.arrivals == "open" and load.window_s is None:
        return "arrivals: open needs a window_s, the seconds that are measured"
    if load.timed and load.primed_share:
        return f"arrivals: {load.arrivals} can't prime the prefix cache beforehand: cache: cold"
    return None
