"""The validity checks as data: a check has a name, the evidence it needs, and a judge. `BUILT_IN` are in builtin.py.

A check of your own: make a `Check` and give it to the run (hook `pytest_context_research_checks`). Its outcomes:

- `pass`, `fail`: the evidence was there, and says so.
- `n/a`: the question does not arise, such as that of a handoff where there is none.
- `not provable`: it arises, and this engine or backend can't give the evidence. Never counts as a pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from context_research.engines.base import Counters, Evidence
from context_research.errors import UsageProblem
from context_research.hardware.load import Load
from context_research.measure.checks.first_token import LookedUp
from context_research.measure.checks.kv_probe import Probe
from context_research.measure.checks.kv_transport import Transport
from context_research.measure.checks.machine import Treatment
from context_research.measure.checks.outcomes import judged as judged
from context_research.measure.checks.outcomes import not_applicable as not_applicable
from context_research.measure.checks.outcomes import not_provable as not_provable
from context_research.measure.checks.output_parity import NoReference, Reference
from context_research.measure.checks.token_counts import Ours
from context_research.measure.client_lag import Lag
from context_research.measure.metrics import Repeat
from context_research.models.model import Model
from context_research.records.case import CheckRecord, Status
from context_research.request import Timeline
from context_research.settings.schema import Settings
from context_research.settings.sources import Resolved
from context_research.workload.case import Case
from context_research.workload.load import Planned

STATUSES: tuple[Status, ...] = ("fail", "not provable", "pass", "n/a")
"""From that which a reader must see first."""


@dataclass(frozen=True, slots=True)
class Given:
    """Which evidence a run has. `absent`: kinds that there is nothing of in this backend, with the reason; checks that
    need one are n/a. `by_engine`: what each engine gives, by its name."""

    by_engine: Mapping[str, frozenset[Evidence]]
    backend: frozenset[Evidence] = frozenset()
    absent: Mapping[Evidence, str] = field(default_factory=dict)

    def lacking(self, kind: Evidence) -> list[str]:
        """Who does not give it: names of engines, or `the backend`; nobody where it is given."""
        if kind in self.backend:
            return []
        if kind in (Evidence.WALL_TIME, Evidence.ENERGY):
            return ["the backend"]
        return [f"engine {name!r}" for name, kinds in self.by_engine.items() if kind not in kinds]


@dataclass(frozen=True, slots=True)
class CaseEvidence:
    """All that is known of one measured case: what every judge gets.

    `timelines` are all that were sent, the warm-up's too; `steady` hold the requests of the measured windows, `whole`
    the same passes with ramp and drain. `asked` counts the measured requests. `counted` are the engines' counts by
    role, from the first measured pass to the last; `by_engine` the same of each engine, and `ours` the requests that
    checks sent it meanwhile; `faults` what went wrong with transfers, on all engines. `resets`: whether each engine's
    prefix cache could be emptied, before and afterwards. `dead` names engines, `replaced` those whose processes are
    not the ones that the case began with. `probes` are of requests that were served alone afterwards, `looked_up` of
    those whose first tokens differed. `plans` are what each repeat was to send, drawn anew. `load` is what else the
    machine did, `treatments` how it treats each engine.
    """

    case: Case
    model: Model
    given: Given
    asked: int
    timelines: Sequence[Timeline]
    steady: Sequence[Repeat]
    whole: Sequence[Repeat]
    counted: Mapping[str, Counters]
    faults: Mapping[str, int]
    resets: Mapping[str, bool]
    dead: Sequence[str]
    client_lag: Lag
    self_test: Lag | None
    transport: Transport | None
    reference: Reference | NoReference
    by_engine: Mapping[str, Counters] = field(default_factory=dict)
    ours: Mapping[str, Ours] = field(default_factory=dict)
    replaced: Sequence[str] = ()
    probes: Sequence[Probe] = ()
    looked_up: Sequence[LookedUp] = ()
    load: Load | None = None
    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    own_niceness: int = 0
    plans: Mapping[int, Sequence[Planned]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """Those that hold for this case."""
        return self.case.settings

    @property
    def sent(self) -> list[Timeline]:
        """Every request but the warm-up's."""
        return [timeline for timeline in self.timelines if timeline.phase != "warmup"]

    @property
    def measured(self) -> list[Timeline]:
        return [timeline for repeat in self.steady for timeline in repeat.timelines]


@dataclass(frozen=True, slots=True)
class Check:
    """One validity check. `judge` is called where its evidence is there; `not_due` says why it does not arise here."""

    name: str
    judge: Callable[[CaseEvidence], CheckRecord]
    needs: frozenset[Evidence] = frozenset()
    not_due: Callable[[Settings], str | None] = lambda _: None

    def ruled_out(self, settings: Settings, given: Given) -> CheckRecord | None:
        """The result where nothing is judged: n/a or not provable, by rule. None where it is judged."""
        if absent := [given.absent[kind] for kind in Evidence if kind in self.needs and kind in given.absent]:
            return not_applicable(self.name, absent[0])
        if why := self.not_due(settings):
            return not_applicable(self.name, why)
        return not_provable(self.name, why) if (why := missing(self.needs, given)) else None


def missing(needs: Collection[Evidence], given: Given) -> str:
    """Which of the evidence is not given, and by whom, in one line; empty where all is."""
    lacking = {kind: who for kind in Evidence if kind in needs and (who := given.lacking(kind))}
    return "; ".join(f"{kind}: not given by {', '.join(who)}" for kind, who in lacking.items())


def judge_all(checks: Iterable[Check], evidence: CaseEvidence) -> list[CheckRecord]:
    """Every check's result, in order."""
    settings = evidence.settings
    results = (check.ruled_out(settings, evidence.given) or _judged(check, evidence) for check in checks)
    return [_allowed(result) if result.check in settings.allow_invalid else result for result in results]


def _judged(check: Check, evidence: CaseEvidence) -> CheckRecord:
    """The judge's result, under the check's own name. A judge that breaks down costs its case, not the figures."""
    try:
        return check.judge(evidence).model_copy(update={"check": check.name})
    except Exception as error:
        return judged(check.name, False, f"could not be judged: {type(error).__name__}: {error}")


def _allowed(result: CheckRecord) -> CheckRecord:
    """Only what failed is allowed to."""
    return result.model_copy(update={"allowed": result.status == "fail"})


def extended(checks: Sequence[Check], added: Iterable[Check]) -> tuple[Check, ...]:
    """`checks`, then those that plugins add. Raises UsageProblem: a name that is taken, or can't be one."""
    every = list(checks)
    for check in added:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", check.name):
            raise UsageProblem(f"check {check.name!r}: a check's name is lower-case letters, digits and '_'")
        if check.name in {known.name for known in every}:
            raise UsageProblem(f"check {check.name!r}: there is one of this name already")
        every.append(check)
    return tuple(every)


def check_allowed(resolved: Resolved, checks: Iterable[Check]) -> None:
    """Raises UsageProblem where `allow_invalid` names no check."""
    names = [check.name for check in checks]
    if unknown := [name for name in resolved.settings.allow_invalid if name not in names]:
        raise UsageProblem(
            f"{resolved.where('allow_invalid')}: unknown check {unknown[0]!r}; one of {', '.join(names)}"
        )
