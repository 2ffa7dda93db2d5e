"""What an A/B is asked to do: its arms, their sessions' order and seeds, the family to be judged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from context_research.backends.registry import backend_of, named
from context_research.compare import comparison
from context_research.compare.ab import arms as ab_arms
from context_research.compare.ab import looks as ab_looks
from context_research.compare.ab import samples
from context_research.compare.family import class_of, split
from context_research.compare.statistics import MIN_PAIRS, PRACTICAL
from context_research.errors import UsageProblem
from context_research.hardware.placement import groups
from context_research.measure import knee
from context_research.measure.capacity import by_load, load_of
from context_research.records import redact
from context_research.records.ab import PlanRecord, SessionRecord
from context_research.settings.experiments import Experiment
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer
from context_research.workload.case import cases
from context_research.workload.load import planned, window


class Plan(PlanRecord):
    """An arm is a serving mode or file, with options of ours that hold for it alone: ``aggregated --dtype half``.

    `pytest_options` go to every session's pytest, before the arm's own. `settings`: each arm's as resolved.
    `device_groups`: GPUs or CPU cores; as many sessions run side by side as there are, each seeing its group alone.
    `folder` holds the experiment's test, as pytest is given it.
    """

    @property
    def family(self) -> int:
        """How many verdicts there will be, unless -k selects among the cases."""
        chosen = self.settings_of(self.against)
        every = cases(chosen)
        loads = by_load((case, case.axes) for case in every)
        counts = (
            len(loads) * len(chosen.slos) if split(name)[0] == "capacity" else len(every) for name in self.primary
        )
        return sum(counts) * (len(self.arms) - 1)

    def settings_of(self, arm: str) -> Settings:
        return Settings.model_validate(self.settings[arm])

    def sessions(self) -> Iterator[SessionRecord]:
        """Every second pair in reverse, so that a steady drift weighs on all arms alike; each arm in each place equally
        often: AB BA BA AB; ABC CBA BCA ACB CAB BAC. Pair i has the seed `seed` + i in every arm.
        """
        arms = list(self.arms)
        for pair in range(self.pairs):
            turned = arms[(turn := pair // 2 % len(arms)) :] + arms[:turn]
            for arm in turned if pair % 2 == 0 else turned[::-1]:
                yield SessionRecord(pair=pair, arm=arm, seed=self.seed + pair, devices=self._devices(pair, arm))

    def _devices(self, pair: int, arm: str) -> tuple[int, ...] | None:
        """The group of devices that a session sees, None: all.

        A pair's arms run side by side, each on a group, and the next pair there has them one group further.
        """
        if not self.device_groups:
            return None
        arms = list(self.arms)
        turn, lane = divmod(pair, len(self.device_groups) // len(arms))
        return self.device_groups[len(arms) * lane + (arms.index(arm) + turn + lane) % len(arms)]

    @property
    def ends(self) -> tuple[int, ...]:
        """The numbers of pairs after which it may end."""
        return self.looks or (self.pairs,)

    @property
    def measured(self) -> bool:
        return named(self.settings_of(self.against).backend).measured

    @property
    def selects(self) -> bool:
        """Whether pytest is to choose among the cases."""
        return ab_arms.selects(self.pytest_options)

    @property
    def swaps_evenly(self) -> bool:
        """Whether each group of devices has every arm equally often."""
        return all(end % max(1, len(self.device_groups)) == 0 for end in self.ends)

    @property
    def described(self) -> list[str]:
        """What there will be: the sessions and their arms, the family and when it is judged, how long it takes.

        A line each; the last of timed loads alone.
        """
        sessions = " to ".join(str(len(self.arms) * pairs) for pairs in dict.fromkeys((self.ends[0], self.pairs)))
        texts = [f"{arm}: {text}" if ab_arms.is_named(self.arms) else text for arm, text in self.arms.items()]
        return [f"{sessions} sessions, {' / '.join(texts)}", self._judged(), *self._takes()]

    def _takes(self) -> Iterator[str]:
        """Warm-ups and windows are known beforehand; starts of engines, references and what queues come on top."""
        chosen = self.settings_of(self.against).model_copy(update={"seed": self.seed})
        every = cases(chosen)
        if not chosen.workload.timed or not self.measured or self.find_rates or self.selects:
            return
        seconds = self.repeats * sum(window(case.settings.workload, planned(case, 0))[1] for case in every)
        pair = seconds * len(self.arms) / max(1, len(self.device_groups))
        least, most = (timedelta(seconds=round(pair * pairs)) for pairs in (self.ends[0], self.pairs))
        whole = f"{least} to {most}" if least < most else f"{least}"
        yield (
            f"warm-ups and windows take {timedelta(seconds=round(seconds))} a session ({len(every)} cases), {whole} "
            "in all; engines' starts, what queues and rates that are added come on top"
        )

    def _judged(self) -> str:
        what = f"{self.family} figures" if self.family > 1 else "one figure"
        if len(self.looks) > 1:
            return f"{what}, judged after {ab_looks.listed(self.looks)} pairs: it ends once all are decided"
        pairs = f"{self.pairs} pairs" if self.pairs > 1 else "a single pair"
        if not self.measured:
            return f"{what}, after {pairs}: ratios without a verdict, as nothing is measured"
        few = f"; fewer than {MIN_PAIRS} decide nothing" if self.pairs < MIN_PAIRS else ""
        return f"{what}, judged together after {pairs}{few}"

    def arguments(self, arm: str) -> list[str]:
        """pytest's arguments for one arm, our options by the names that hold everywhere."""
        return ab_arms.arguments(self.arms[arm], self.pytest_options)

    def record(self) -> PlanRecord:
        """As it is read back from ab.json."""
        return PlanRecord.model_validate(redact.plain(self.model_dump(mode="json")))


def plan(
    experiment: Experiment,
    arms: Mapping[str, str],
    primary: Sequence[str] | None = None,
    practical: float | None = None,
    against: str | None = None,
    pairs: int | None = None,
    looks: Sequence[int] | None = None,
    pytest_options: Sequence[str] = (),
    device_groups: str | None = None,
    find_rates: bool = False,
    given: Sequence[Layer] = (),
    root: Path | None = None,
    **more: Any,
) -> Plan:
    """A plan, every arm's settings resolved, that nothing known beforehand speaks against.

    `arms`: name -> serving mode or file, then options; each is held `against` one of them, by default the first.
    `pairs`, or `looks` (looks.py has what holds without either). `given`: settings that hold for every arm's sessions
    without being among `pytest_options`, weakest first. `root`: the project's, at which relative paths in YAML start.
    Raises UsageProblem: no such arm, option, value, figure or device; arms that differ in what matters.
    """
    against = next(iter(arms)) if against is None else against
    if against not in arms:
        raise UsageProblem(f"--against {against}: no arm has that name; there are {', '.join(arms)}")
    resolved = {
        arm: ab_arms.settings(experiment.name, arm, text, pytest_options, given, experiment.configs, root)
        for arm, text in arms.items()
    }
    primary = tuple(dict.fromkeys(resolved[against].primary if primary is None else primary))
    for chosen in resolved.values():
        cases(chosen)  # axes that can't be are refused here
        _check_primary(primary, chosen)
        _check_capacity(primary, chosen, find_rates)
    if find_rates and device_groups is not None:
        raise UsageProblem("--find-rates can't be beside --device-groups: find them first (context-research rates)")
    last, looks = ab_looks.planned(pairs, looks, resolved[against].backend)
    made = Plan(
        experiment=experiment.name,
        folder=os.path.relpath(experiment.folder),
        arms=dict(arms),
        against=against,
        pairs=last,
        looks=looks,
        pytest_options=tuple(pytest_options),
        primary=primary,
        find_rates=find_rates,
        practical=PRACTICAL if practical is None else practical,
        settings={arm: chosen.model_dump(mode="json") for arm, chosen in resolved.items()},
        **more,
    )
    _check_same(made)
    for chosen in resolved.values():
        samples.check(primary, chosen, range(made.seed, made.seed + made.ends[0]), made.repeats, made.selects)
    if device_groups is not None:
        made = made.model_copy(update={"device_groups": _groups(device_groups, made)})
    return made


def _check_same(made: Plan) -> None:
    """Refuse arms whose settings differ in what matters. What only runs know, they will tell."""
    before = comparison.settled(made.settings[made.against])
    for arm in made.arms:
        after = comparison.settled(made.settings[arm])
        names = "the arms" if len(made.arms) == 2 else f"{made.against} and {arm}"
        comparison.check_same(names, before, after, made.allow_different, comparison.ALLOW)
        one, other = (made.settings[each]["backend"] for each in (made.against, arm))
        if one != other:
            raise UsageProblem(f"{names} have different backends, and are never compared: {one} / {other}")


def _check_capacity(primary: Sequence[str], chosen: Settings, find_rates: bool) -> None:
    """Refuse a capacity that no session could have, and a search for what is no open load's."""
    load = chosen.workload
    asked = [name for name in primary if split(name)[0] == "capacity"]
    if find_rates:
        knee.check(chosen)
    if not asked:
        return
    if split(asked[0])[1] not in (None, "mean"):
        raise UsageProblem(f"--primary {asked[0]}: a session has one capacity; write capacity")
    if not load.timed or not (all(slo.given for slo in chosen.slos) or load.class_slos):
        raise UsageProblem("--primary capacity: takes an open or replayed load, and limits (slo)")
    grids = Counter(load_of(case.axes) for case in cases(chosen))
    if not find_rates and (grids[None] or min(grids.values()) < 2):
        raise UsageProblem("--primary capacity: takes two rates or more (--rates=R,R, or --find-rates)")


def _check_primary(primary: Sequence[str], chosen: Settings) -> None:
    """Refuse what names no figure. Which metrics there are, plugins' too, and a trace's classes, the runs will tell."""
    classes = tuple(chosen.workload.classes)
    for name in primary:
        class_name, metric = class_of(split(name)[0])
        if not metric or (not classes and "." in split(name)[0] and chosen.workload.trace is None):
            raise UsageProblem(f"--primary {name!r}: expected metrics such as ttft, or figures such as ttft.p90")
        if class_name and class_name not in classes and chosen.workload.trace is None:
            raise UsageProblem(f"--primary {name}: there is no class {class_name}; this load has {', '.join(classes)}")


def _groups(text: str, made: Plan) -> tuple[tuple[int, ...], ...]:
    arms = len(made.arms)
    found = groups(text, backend_of(made.settings_of(made.against)).machine.indices, "this machine's")
    if len(found) % arms or len(set(map(len, found))) > 1:
        raise UsageProblem(
            f"--device-groups={text}: a pair's {arms} arms run side by side, each on a group: give {arms} groups, or a "
            "multiple of that, all of one size"
        )
    return tuple(map(tuple, found))
