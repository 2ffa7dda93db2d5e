"""What every figure knows of its arms: colours, names, cases, requests, counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from matplotlib import figure as mpl
from matplotlib.lines import Line2D
from pydantic import JsonValue

from context_research.compare.observations import Arm
from context_research.report.figures.style import legend
from context_research.request import Timeline

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Of the arms, and of classes; a seventh has the first one's again."""
_ROLES = ("baseline", "candidate")
_LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_SHORT = 24
"""Letters of an arm's name where each arm has a bar, or a part of a sentence."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One figure, drawn and not yet saved; the caption says what intervals mean and how many samples there are."""

    stem: str
    title: str
    canvas: mpl.Figure
    caption: str


def cases_of(arms: Sequence[Arm]) -> list[str]:
    """Cases of either arm in which a request completed."""
    cases = dict.fromkeys(case for arm in arms for case in arm.cases)
    return [case for case in cases if any(requests_of(arm, case) for arm in arms)]


def requests_of(arm: Arm, case: str) -> list[Timeline]:
    return [timeline for repeat in arm.repeats(case) for timeline in repeat.timelines]


def classes_of(arms: Sequence[Arm]) -> list[str]:
    """The classes of the arms' loads, those of short prompts (their median) first; none where there are none."""
    lengths: dict[str, list[int]] = {}
    for arm in arms:
        for case in arm.cases:
            for timeline in requests_of(arm, case):
                lengths.setdefault(timeline.class_name, []).append(timeline.prompt_tokens)
    return sorted(filter(None, lengths), key=lambda name: (median_low(lengths[name]), name))


def shades(names: Sequence[str]) -> dict[str, str]:
    """A colour for each class, in their order."""
    return {name: colour(index) for index, name in enumerate(names)}


def colour(index: int) -> str:
    """Of an arm."""
    return COLOURS[index % len(COLOURS)]


def line(index: int) -> Any:
    """Of an arm; a line style of matplotlib's."""
    return _LINES[index % len(_LINES)]


def axes_of(arms: Sequence[Arm], case: str) -> Mapping[str, JsonValue]:
    return next((arm.axes[case] for arm in arms if case in arm.axes), {})


def short_names(arms: Sequence[Arm]) -> list[str]:
    """What arms are called where space is short; those without a name have their role, or number."""
    roles = _ROLES if len(arms) == 2 else [f"arm {number}" for number in range(1, len(arms) + 1)]
    return [shortened(arm.name, _SHORT) or role for arm, role in zip(arms, roles, strict=True)]


def prefixes(arms: Sequence[Arm]) -> list[str]:
    return [f"{name} " for name in short_names(arms)] if len(arms) > 1 else [""]


def name_of(arms: Sequence[Arm], index: int) -> str:
    """What a legend calls an arm: ``baseline: aggregated``."""
    name, label = short_names(arms)[index], arms[index].label
    return label if len(arms) == 1 or f"{label} ".startswith(f"{name} ") else f"{name}: {label}"


def shortened(text: str, most: int) -> str:
    """At most so many letters: what is in the middle goes."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def counted(arms: Sequence[Arm]) -> str:
    return "; ".join(
        f"{role}{plural(len(arm.units), 'unit')}, {plural(sum(len(requests_of(arm, c)) for c in arm.cases), 'request')}"
        for role, arm in zip(prefixes(arms), arms, strict=True)
    )


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def slashed(counts: Iterable[int]) -> str:
    return " / ".join(f"{count:,}" for count in counts)


def tokens(count: int) -> str:
    return f"{count / 1024:g}k" if count >= 1024 and count % 128 == 0 else str(count)


def turned(crowded: bool) -> Any:
    """How labels stand that would run into each other."""
    return {"rotation": 30, "ha": "right"} if crowded else {}


def marker(index: int) -> str:
    """Of an arm's points."""
    return _MARKERS[index % len(_MARKERS)]


def arm_legend(canvas: mpl.Figure, arms: Sequence[Arm], points: bool = False) -> None:
    """`points`: markers instead of line styles."""
    lines = [
        Line2D([], [], color=colour(index), marker=marker(index), mfc="white")
        if points
        else Line2D([], [], color=colour(index), ls=line(index))
        for index in range(len(arms))
    ]
    legend(canvas, lines, [name_of(arms, index) for index in range(len(arms))])
