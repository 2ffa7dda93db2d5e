"""What an A/B is asked to do: two arms, their sessions' order and seeds, the family to be judged."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.compare import comparison
from context_research.compare.family import PRIMARY, class_of, split
from context_research.compare.statistics import PRACTICAL
from context_research.errors import UsageProblem
from context_research.hardware.placement import groups
from context_research.records import redact
from context_research.records.ab import PlanRecord, SessionRecord
from context_research.settings import sources
from context_research.settings.experiments import Experiment
from context_research.settings.options import OPTIONS, everywhere, from_environment, unprefixed
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer
from context_research.workload.case import cases

_OURS = {option.flag for option in OPTIONS} | {"--set"}
_SERVING = {"--serving", "--serving-config"}
_GIVEN_BY_AB = {"--seed", "--outputs", "--run-id", "--repeats", "--device-groups"}


class Plan(PlanRecord):
    """An arm is a serving mode or file, with options of ours that hold for it alone: ``aggregated --dtype half``.

    `pytest_options` go to every session's pytest, before the arm's own. `settings`: each arm's as resolved.
    `device_groups`: GPUs or CPU cores; as many sessions run side by side as there are, each seeing its group alone.
    `folder` holds the experiment's test, as pytest is given it.
    """

    @property
    def family(self) -> int:
        """How many verdicts there will be, unless -k selects among the cases."""
        return len(self.primary) * len(cases(self.settings_of(self.against))) * (len(self.arms) - 1)

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
    def swaps_evenly(self) -> bool:
        """Whether each group of devices has either arm equally often."""
        return self.pairs % max(1, len(self.device_groups)) == 0

    def arguments(self, arm: str) -> list[str]:
        """pytest's arguments for one arm, our options by the names that hold everywhere."""
        serving, *options = shlex.split(self.arms[arm])
        return everywhere([*self.pytest_options, f"--serving={serving}", *options])

    def record(self) -> PlanRecord:
        """As it is read back from ab.json."""
        return PlanRecord.model_validate(redact.plain(self.model_dump(mode="json")))


def plan(
    experiment: Experiment,
    arms: Mapping[str, str],
    primary: Sequence[str] | None = None,
    practical: float | None = None,
    against: str | None = None,
    device_groups: str | None = None,
    given: Sequence[Layer] = (),
    root: Path | None = None,
    **more: Any,
) -> Plan:
    """A plan, every arm's settings resolved, that nothing known beforehand speaks against.

    `arms`: name -> serving mode or file, then options; each is held `against` one of them, by default the first.
    `given`: settings that hold for both arms' sessions without being among `pytest_options`, weakest first. `root`: the
    project's, at which relative paths in YAML start.
    Raises UsageProblem: no such arm, option, value, figure or device; arms that differ in what matters.
    """
    made = Plan(
        experiment=experiment.name,
        folder=os.path.relpath(experiment.folder),
        arms=dict(arms),
        against=against or next(iter(arms)),
        primary=PRIMARY if primary is None else tuple(dict.fromkeys(primary)),
        practical=PRACTICAL if practical is None else practical,
        device_groups=(),
        settings={},
        **more,
    )
    resolved = {arm: _resolve(made, arm, given, experiment.configs, root) for arm in arms}
    for chosen in resolved.values():
        cases(chosen)  # axes that can't be are refused here
        _check_primary(made.primary, chosen)
    made = made.model_copy(
        update={"settings": {arm: chosen.model_dump(mode="json") for arm, chosen in resolved.items()}}
    )
    if device_groups is not None:
        made = made.model_copy(update={"device_groups": _groups(device_groups, made)})
    before = comparison.settled(made.settings[made.against])
    for arm in made.arms:
        after = comparison.settled(made.settings[arm])
        names = "the arms" if len(made.arms) == 2 else f"{made.against} and {arm}"
        comparison.check_same(names, before, after, made.allow_different, comparison.ALLOW)
    return made


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


def _resolve(made: Plan, arm: str, given: Sequence[Layer], configs: Path, root: Path | None) -> Settings:
    text = made.arms[arm]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageProblem(f"--{arm} {text!r}: {error}") from None
    if not words or words[0].startswith("-"):
        modes = ", ".join(sources.serving_modes())
        raise UsageProblem(f"--{arm} {text!r}: begin with a serving mode ({modes}) or a YAML file")
    common, own = _common(made.pytest_options), _options(words[1:], f"--{arm}")
    layers = [
        *given,
        sources.parse_options("environment", from_environment()),
        sources.parse_options("after --", common[0]),
        sources.parse_options(f"--{arm}", {**own[0], "--serving": words[0]}),
        sources.parse_set("after --", common[1]),
        sources.parse_set(f"--{arm}", own[1]),
    ]
    return resolve(made.experiment, layers, configs, root).settings


Given = tuple[dict[str, str], list[str]]
"""Flag -> text, and what --set was given."""


def _common(words: Sequence[str]) -> Given:
    """Our options among pytest's. Raises UsageProblem for those that the A/B or its arms decide."""
    words = [unprefixed(word) for word in words]
    for word in words:
        if (flag := word.partition("=")[0]) in _SERVING | _GIVEN_BY_AB:
            decides = "an arm decides it (--baseline, --candidate)" if flag in _SERVING else "ab has it itself"
            raise UsageProblem(f"{flag} can't be among the pytest options: {decides}")
    ours, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if word.partition("=")[0] in _OURS:
            ours += [word] if "=" in word or not rest else [word, rest.pop(0)]
    return _options(ours, "after --")


def _options(words: Sequence[str], where: str) -> Given:
    """Of an arm: it takes our own options alone, as others don't change the serving. Raises UsageProblem."""
    texts, sets, rest = dict[str, str](), list[str](), [unprefixed(word) for word in words]
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in _SERVING:
            raise UsageProblem(f"{where}: the serving mode is the arm's first word; leave {flag} out")
        if flag not in _OURS or flag in _GIVEN_BY_AB:
            allowed = ", ".join(sorted(_OURS - _GIVEN_BY_AB - _SERVING))
            raise UsageProblem(f"{where}: {flag} is no option of an arm; those are {allowed}")
        if not equals and not rest:
            raise UsageProblem(f"{where}: {flag} needs a value")
        value = value if equals else rest.pop(0)
        if flag == "--set":
            sets.append(value)
        else:
            texts[flag] = value
    return texts, sets
