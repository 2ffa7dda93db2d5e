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

COLOURS = ("#0072B2", "#D55E00")
"""Of the arms."""
_CLASSES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
ROLES = ("baseline", "candidate")
LINES = ("-", (0, (4, 1.5)))


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
    return {name: _CLASSES[index % len(_CLASSES)] for index, name in enumerate(names)}


def axes_of(arms: Sequence[Arm], case: str) -> Mapping[str, JsonValue]:
    return next((arm.axes[case] for arm in arms if case in arm.axes), {})


def prefixes(arms: Sequence[Arm]) -> list[str]:
    return [f"{role} " for role in ROLES] if len(arms) > 1 else [""]


def name_of(arms: Sequence[Arm], index: int) -> str:
    return f"{ROLES[index]}: {arms[index].label}" if len(arms) > 1 else arms[index].label


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


def arm_legend(canvas: mpl.Figure, arms: Sequence[Arm], **line: Any) -> None:
    lines = [Line2D([], [], **({"color": COLOURS[index], "ls": LINES[index]} | line)) for index in range(len(arms))]
    legend(canvas, lines, [name_of(arms, index) for index in range(len(arms))])
