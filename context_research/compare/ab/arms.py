"""An A/B's arms as a user writes them: names, texts, and the settings that they come to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from context_research.backends.resolve import resolve
from context_research.compare.comparison import TWO
from context_research.errors import UsageProblem, given_twice
from context_research.settings import sources
from context_research.settings.options import OPTIONS, everywhere, from_environment, unprefixed
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer

DEFAULT = {"baseline": "aggregated", "candidate": "disaggregated"}
"""The arms of an A/B that names none, and their serving modes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_OURS = {option.flag for option in OPTIONS} | {"--set"}
_SERVING = {"--serving", "--serving-config"}
_GIVEN_BY_AB = {"--seed", "--outputs", "--run-id", "--resume", "--repeats", "--device-groups"}


def asked(named: Sequence[str], two: Mapping[str, str | None]) -> dict[str, str]:
    """Arm -> text, of what the command line has: --arm NAME=TEXT, again and again, or the `two` of DEFAULT's names.

    Raises UsageProblem: both ways at once, no name, one name twice, a single arm.
    """
    given = [name for name, text in two.items() if text is not None]
    if not named:
        return {name: DEFAULT[name] if text is None else text for name, text in two.items()}
    if given:
        raise UsageProblem(f"--arm and --{given[0]} can't be mixed: give each arm as --arm NAME='{DEFAULT[given[0]]}'")
    arms = {}
    for text in named:
        name, equals, words = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise UsageProblem(
                f"--arm {text!r}: expected NAME='serving mode or file, then options', with a NAME of up to 32 letters, "
                "digits, '-', '_' and '.'"
            )
        arms[name] = words
    names = [text.partition("=")[0] for text in named]
    if twice := given_twice(name.casefold() for name in names):
        raise UsageProblem(f"--arm: two arms are called {twice}; names must differ, in more than their case")
    if len(arms) < 2:
        raise UsageProblem(f"--arm: {names[0]} has nothing to be held against; give a second --arm")
    return arms


def is_named(arms: Iterable[str]) -> bool:
    """Whether arms have names of the user's: others are called by what they serve."""
    return set(arms) != TWO


def flag(arm: str) -> str:
    """How the command line calls an arm, for messages."""
    return f"--{arm}" if arm in DEFAULT else f"--arm {arm}"


def selects(pytest_options: Sequence[str]) -> bool:
    """Whether pytest is to choose among the cases: which ones it will run is then not known beforehand."""
    return any(word.startswith(("-k", "-m", "--deselect", "--lf", "--last-failed", "--sw")) for word in pytest_options)


def arguments(text: str, pytest_options: Sequence[str]) -> list[str]:
    """pytest's arguments for an arm, our options by the names that hold everywhere."""
    serving, *options = shlex.split(text)
    return everywhere([*pytest_options, f"--serving={serving}", *options])


def settings(
    experiment: str,
    arm: str,
    text: str,
    pytest_options: Sequence[str],
    given: Sequence[Layer],
    configs: Path,
    root: Path | None,
) -> Settings:
    """What an arm's sessions will have. `given`: settings that hold for every arm, weakest first.

    Raises UsageProblem: no such serving mode, option or value.
    """
    called = flag(arm)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageProblem(f"{called} {text!r}: {error}") from None
    if not words or words[0].startswith("-"):
        modes = ", ".join(sources.serving_modes())
        raise UsageProblem(f"{called} {text!r}: begin with a serving mode ({modes}) or a YAML file")
    common, own = _common(pytest_options), _options(words[1:], called)
    layers = [
        *given,
        sources.parse_options("environment", from_environment()),
        sources.parse_options("after --", common[0]),
        sources.parse_options(called, {**own[0], "--serving": words[0]}),
        sources.parse_set("after --", common[1]),
        sources.parse_set(called, own[1]),
    ]
    return resolve(experiment, layers, configs, root).settings


Given = tuple[dict[str, str], list[str]]
"""Flag -> text, and what --set was given."""


def _common(words: Sequence[str]) -> Given:
    """Our options among pytest's. Raises UsageProblem for those that the A/B or its arms decide."""
    words = [unprefixed(word) for word in words]
    for word in words:
        if (name := word.partition("=")[0]) in _SERVING | _GIVEN_BY_AB:
            decides = "an arm decides it (--baseline, --candidate, --arm)" if name in _SERVING else "ab has it itself"
            raise UsageProblem(f"{name} can't be among the pytest options: {decides}")
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
        name, equals, value = rest.pop(0).partition("=")
        if name in _SERVING:
            raise UsageProblem(f"{where}: the serving mode is the arm's first word; leave {name} out")
        if name not in _OURS or name in _GIVEN_BY_AB:
            allowed = ", ".join(sorted(_OURS - _GIVEN_BY_AB - _SERVING))
            raise UsageProblem(f"{where}: {name} is no option of an arm; those are {allowed}")
        if not equals and not rest:
            raise UsageProblem(f"{where}: {name} needs a value")
        value = value if equals else rest.pop(0)
        if name == "--set":
            sets.append(value)
        else:
            texts[name] = value
    return texts, sets
