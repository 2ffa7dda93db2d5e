"""A plan's report: the answer, a ranking for each SLO, how far the simulator was off, how to confirm it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from context_research.measure.capacity import described
from context_research.records import store
from context_research.records.capacity_plan import CandidateRecord, CapacityPlanRecord
from context_research.records.files import PlanFiles
from context_research.report import simulated
from context_research.report.tables import table

_ERROR = 0.1
"""Of a search's figure: windows of some 400 requests or more err by 2 to 7 % (sd, docs/results/capacity.md)."""
_ROUGH = "<: by short windows alone, which flatter; the leaders had long ones."
_SHOWN = 10
"""Rows of a ranking on a terminal."""


def write(files: PlanFiles, commands: Sequence[str]) -> None:
    """`commands`: how to confirm it on real engines. Raises StorageFailure."""
    store.replace(files.report, render(store.read(files.record, CapacityPlanRecord), commands))


def render(plan: CapacityPlanRecord, commands: Sequence[str]) -> str:
    """The whole report, Markdown."""
    parts = [
        f"# SIMULATED: what {plan.devices} × {plan.device_profile} carry, {plan.model.shown}",
        "> **SIMULATED: no engine ran, these are a model's figures.** vLLM's own scheduler, in virtual time.",
        "\n".join(f"- {line}" for line in answers(plan)),
        *(_section(plan, number) for number in range(len(plan.slos))),
        f"## How far to trust it\n\n{trust(plan)}",
        *(["## On real engines\n\n```sh\n" + "\n".join(commands) + "\n```"] if commands else []),
        _unable(plan),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def terminal(plan: CapacityPlanRecord, commands: Sequence[str]) -> str:
    """The answers, the heads of the rankings, the commands."""
    parts = ["\n".join(answers(plan))]
    parts += [f"{_title(plan, number)}\n{_ranking(plan, number, _SHOWN)}" for number in range(len(plan.slos))]
    if commands:
        parts.append("\n".join(["to confirm the two best topologies on real engines:", *commands]))
    return "\n\n".join(["SIMULATED: no engine ran", *parts, _ROUGH, trust(plan)])


def answers(plan: CapacityPlanRecord) -> list[str]:
    """A sentence for each SLO."""
    told = []
    for number in range(len(plan.slos)):
        two = list(islice(best(plan, number), 2))
        if not two:
            told.append(f"{_title(plan, number)}: {_without(plan, number)}.")
            continue
        first = f"{_title(plan, number)}: {_named(two[0])} carries {_rate(two[0], number)} requests/s per GPU"
        if len(two) > 1:
            first += f", {_ahead(two[0], two[1], number)} {_named(two[1])} ({_rate(two[1], number)})"
        told.append(f"{first}.")
    return told


def _without(plan: CapacityPlanRecord, number: int) -> str:
    """Why there is no figure."""
    bounds = {each.carried[number].bound for each in plan.candidates if each.carried}
    if not bounds:
        return "nothing of it can run"
    return "met at every rate that was tried" if "at least" in bounds else "no topology meets it"


def _ahead(first: CandidateRecord, second: CandidateRecord, number: int) -> str:
    ratio = first.carried[number].rate / second.carried[number].rate
    return "too close to call beside" if ratio < 1 + _ERROR else f"{ratio:.2f} × as much as"


def best(plan: CapacityPlanRecord, number: int) -> list[CandidateRecord]:
    """Each topology with the chunk size that suits it best, the one that carries most first."""
    found: dict[str, CandidateRecord] = {}
    for each in plan.ranked(number):
        found.setdefault(each.name, each)
    return list(found.values())


def trust(plan: CapacityPlanRecord) -> str:
    """What is known of the simulator's error, and what isn't."""
    beyond = "" if all(each.tensor_parallel == 1 for each in plan.candidates) else " Tensor parallelism never was."
    return (
        f"{simulated.known(plan.device_profile, plan.errors)} Capacity itself was not held against real runs, and near "
        f"the knee an error in step times grows as queues do.{beyond} Neighbours in a ranking may change places: "
        f"a search is good to some {_ERROR:.0%}."
    )


def _section(plan: CapacityPlanRecord, number: int) -> str:
    return f"## {_title(plan, number)}\n\nSIMULATED, requests per second. {_ROUGH}\n\n{_ranking(plan, number)}"


def _title(plan: CapacityPlanRecord, number: int) -> str:
    return f"Within {described(plan.slos[number])}"


def _ranking(plan: CapacityPlanRecord, number: int, most: int | None = None) -> str:
    ranked = plan.ranked(number)
    bounds = [each for each in plan.candidates if each.carried and each.carried[number].bound != "exact"]
    rows = [
        (place, each.name, each.chunk, _rate(each, number), f"{each.carried[number].rate * plan.devices:.3g}")
        for place, each in enumerate([*ranked, *bounds][:most], 1)
    ]
    more = len(ranked) + len(bounds) - len(rows)
    shown = table(rows, ("", "topology", "chunk", "per GPU", f"{plan.devices} GPUs"))
    return f"{shown}\n… and {more} more in the report" if more else shown


def _rate(candidate: CandidateRecord, number: int) -> str:
    carried = candidate.carried[number]
    rough = "" if candidate.well else "< "
    return f"{rough if carried.bound == 'exact' else f'{carried.bound} '}{carried.rate:.3g}"


def _named(candidate: CandidateRecord) -> str:
    return f"{candidate.name} with chunks of {candidate.chunk}"


def _unable(plan: CapacityPlanRecord) -> str:
    if not (unable := [each for each in plan.candidates if each.problem]):
        return ""
    rows = [(each.name, each.chunk, each.problem) for each in unable]
    return f"## What can't run\n\n{table(rows, ('topology', 'chunk', 'why'))}"
