"""One case: a point of an experiment's axes, and the settings that hold at it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from typing import Any

from context_research.errors import UsageProblem, given_twice
from context_research.settings.messages import with_values
from context_research.settings.schema import Settings

LENGTHS, LEVELS = "workload.prompt_lengths", "workload.concurrency"
"""The settings whose every value is a case of every experiment; `Settings.axes` names others."""
_OF_THE_RUN = (
    "experiment",
    "backend",
    "device",
    "devices",
    "device_profile",
    "seed",
    "outputs",
    "allow_invalid",
    "axes",
)
"""Settings that are the whole run's."""


@dataclass(frozen=True, slots=True)
class Case:
    """`axes`: name -> value, such as ``{"prompt_tokens": 1024, "concurrency": 4}``. `settings` hold for this case."""

    axes: Mapping[str, Any]
    settings: Settings
    engine_axes: frozenset[str] = frozenset()
    """Those of `axes` that change the engines alone, and not what they are sent."""

    @property
    def name(self) -> str:
        """``p1024-c4``; axes beyond E0's follow by name, ``p1024-c4-output_tokens_16``; ``load`` without any axis."""
        return _name(self.axes)

    @property
    def prompt_tokens(self) -> int | None:
        """Of every prompt, before `length_spread`; None where the load has classes, or is a trace's."""
        return next(iter(self.settings.workload.prompt_lengths), None)

    @property
    def concurrency(self) -> int | None:
        """Requests in flight; None where nothing bounds them."""
        return next(iter(self.settings.workload.concurrency), None)

    def seed(self, part: str) -> int:
        """A seed of this case's own, so that no case's requests depend on which others run, or in which process.

        Cases that differ in their engines alone have the same requests.
        Raises ValueError where the settings have no seed; the plugin refuses such a run before it begins.
        """
        if self.settings.seed is None:
            raise ValueError("a case needs a seed")
        load = _name({axis: value for axis, value in self.axes.items() if axis not in self.engine_axes})
        text = f"{self.settings.seed}:{self.settings.experiment}:{load}:{part}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


_SHORT = {"prompt_tokens": "p", "concurrency": "c"}


def _name(axes: Mapping[str, Any]) -> str:
    parts = (f"{_SHORT[axis]}{value}" if axis in _SHORT else f"{axis}_{_slug(value)}" for axis, value in axes.items())
    return "-".join(parts) or "load"


def cases(settings: Settings) -> list[Case]:
    """Every case of a run's settings: the product of its axes, those that need engines of their own varying slowest.

    Raises UsageProblem: an axis that is no setting's, or is the whole run's; a value that its setting can't have; two
    cases of one name.
    """
    axes: dict[str, tuple[Any, ...]] = {**_lists(settings), **settings.axes}
    found = [_at(settings, dict(zip(axes, values, strict=True))) for values in product(*axes.values())]
    if twice := given_twice(case.name for case in found):
        raise UsageProblem(f"two cases are called {twice}: the values of an axis must differ in letters or digits")
    order = list(dict.fromkeys(engine_settings(case.settings) for case in found))
    return sorted(found, key=lambda case: order.index(engine_settings(case.settings)))


def at(settings: Settings, axes: Mapping[str, Any]) -> Case:
    """The case at one point, axes by their names: one that was measured earlier. Raises UsageProblem: no such axis."""
    keys = {axis_name(key, settings): key for key in (*_lists(settings), *settings.axes)}
    if unknown := sorted(set(axes) - set(keys)):
        raise UsageProblem(f"axis {unknown[0]}: these settings have {', '.join(keys)}")
    return _at(settings, {keys[name]: value for name, value in axes.items()})


def point(settings: Settings, prompt_tokens: int, concurrency: int) -> Case:
    """The case of one prompt length at one concurrency, of settings without further axes."""
    return at(settings, {"prompt_tokens": prompt_tokens, "concurrency": concurrency})


def engine_settings(settings: Settings) -> str:
    """What an engine is started with, as text: cases that differ in it need engines of their own."""
    engines = settings.model_dump_json(exclude={"workload", "slo", "axes", "seed", "outputs", "allow_invalid"})
    return f"{engines} {settings.workload.request_timeout_s}"


def axis_name(key: str, settings: Settings) -> str:
    """An axis' name in cases, rows and reports: the last part of its key, all of it where two axes share that."""
    if key in (LENGTHS, LEVELS):
        return {LENGTHS: "prompt_tokens", LEVELS: "concurrency"}[key]
    leaf = key.rpartition(".")[2]
    alike = [other for other in settings.axes if other.rpartition(".")[2] == leaf]
    return leaf if len(alike) == 1 and leaf not in _SHORT else key.replace(".", "_")


def parameters(settings: Settings) -> list[str]:
    """Axes that are no settings: the experiment's test has to take them as arguments."""
    return [key for key in settings.axes if not _is_setting(key)]


def _at(settings: Settings, values: Mapping[str, Any]) -> Case:
    axes = {axis_name(key, settings): value for key, value in values.items()}
    # The two lists hold one value each; what the load is made of reads them like any other setting.
    own = {key: (value,) if key in (LENGTHS, LEVELS) else value for key, value in values.items() if _is_setting(key)}
    if twice := [key for key in settings.axes if key in (LENGTHS, LEVELS)]:
        raise UsageProblem(f"axes.{twice[0]}: every value of {twice[0]} is a case already; give the list there")
    if fixed := [key for key in own if key.partition(".")[0] in _OF_THE_RUN]:
        raise UsageProblem(f"axes.{fixed[0]}: that is the whole run's, and can't differ between its cases")
    of_engines = {axis_name(key, settings) for key in own if key.partition(".")[0] not in ("workload", "slo")}
    return Case(axes, with_values(settings.model_copy(update={"axes": {}}), own, "axes."), frozenset(of_engines))


def _lists(settings: Settings) -> dict[str, tuple[int, ...]]:
    """The two lists of settings that are axes unasked, where they are given."""
    lists = {LENGTHS: settings.workload.prompt_lengths, LEVELS: settings.workload.concurrency}
    return {key: values for key, values in lists.items() if values}


def _is_setting(key: str) -> bool:
    return "." in key or key in Settings.model_fields


def _slug(value: Any) -> str:
    """A value in a test's name: letters, digits, dots."""
    return "_".join(_words(value)) or "none"


def _words(value: Any) -> Iterator[str]:
    yield from re.findall(r"[\w.]+", str(value).lower())
