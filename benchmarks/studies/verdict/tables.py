"""The tables of the calibration, in percent with 95 % intervals; as docs/statistics.md has them."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from context_research.compare.statistics import PRACTICAL
from scenarios import PAIRS, SLOWDOWN, Kind, Scenario
from tallies import Bar, Share, Tally, pooled

Table = tuple[str, Sequence[str], list[Sequence[object]]]
"""Title, header and rows."""
_SETTING = ("noise", "pairs", "trials")
_CALLED = ("worse", "better", "equivalent", "undecided")


def markdown(tallies: Sequence[Tally], bars: Sequence[Bar]) -> str:
    """Every table."""
    usual = [tally for tally in tallies if tally.scenario.effect == SLOWDOWN]
    alone = [tally for tally in usual if tally.scenario.family == 1]
    families = [tally for tally in usual if tally.scenario.family > 1]
    needed = [tally for tally in tallies if tally.scenario.effect != SLOWDOWN]
    slowdown = f"A {PRACTICAL:.0%} slowdown with `pairs_for`'s pairs".replace("%", " %", 1)
    tables = [
        _bars(bars),
        _alone_alike([tally for tally in alone if not tally.scenario.affected]),
        _alone_slower([tally for tally in alone if tally.scenario.affected]),
        _family_alike([tally for tally in families if not tally.scenario.affected]),
        _affected("Family of 8, some 10 % slower: the affected", families),
        _unaffected([tally for tally in families if tally.scenario.affected]),
        _affected(slowdown, needed),
        _covered(tallies),
    ]
    return "\n\n".join(
        f"**{title}**\n\n"
        + tabulate([[str(cell) for cell in row] for row in rows], header, tablefmt="github", disable_numparse=True)
        for title, header, rows in tables
    )


def _bars(bars: Sequence[Bar]) -> Table:
    return "Bars", ("bar", "limit", "%", ""), [(bar.name, bar.rule, bar.share, bar.verdict) for bar in bars]


def _alone_alike(tallies: Sequence[Tally]) -> Table:
    return (
        "Family of one, A/A",
        (*_SETTING, "better or worse", "equivalent", "undecided"),
        [(*_setting(t), t.false_alarms, t.of_unaffected("equivalent"), t.of_unaffected("undecided")) for t in tallies],
    )


def _alone_slower(tallies: Sequence[Tally]) -> Table:
    return "Family of one, 10 % slower", (*_SETTING, *_CALLED), [(*_setting(t), *_called(t)) for t in tallies]


def _family_alike(tallies: Sequence[Tally]) -> Table:
    return (
        "Family of 8, A/A",
        (*_SETTING, "families with an alarm", "metrics alarmed", "metrics equivalent"),
        [(*_setting(t), t.any_false_alarm, t.false_alarms, t.of_unaffected("equivalent")) for t in tallies],
    )


def _affected(title: str, tallies: Sequence[Tally]) -> Table:
    rows: list[Sequence[object]] = [
        (t.scenario.truth, *_setting(t), *_called(t)) for t in tallies if t.scenario.affected
    ]
    return title, ("affected", *_SETTING, *_CALLED), rows


def _unaffected(tallies: Sequence[Tally]) -> Table:
    return (
        "Family of 8, some 10 % slower: the unaffected",
        ("affected", *_SETTING, "metrics alarmed", "families with a false alarm", "false share of alarms, mean"),
        [
            (
                t.scenario.truth,
                *_setting(t),
                t.false_alarms,
                t.any_false_alarm,
                f"{100 * t.false_discovery_rate:.1f}",
            )
            for t in tallies
        ],
    )


def _covered(tallies: Sequence[Tally]) -> Table:
    """Pooled: neither the noise's size nor the true ratio changes whether the interval holds it."""

    def share(pairs: int, kind: Kind) -> Share:
        return pooled(t.coverage for t in tallies if (t.scenario.pairs, t.scenario.kind) == (pairs, kind))

    return (
        "True ratio inside the 95 % interval, all lognormal rows and all Student t rows",
        ("pairs", "lognormal", "Student t"),
        [(pairs, share(pairs, "lognormal"), share(pairs, "student")) for pairs in PAIRS],
    )


def _setting(tally: Tally) -> tuple[str, int, int]:
    return _noise(tally.scenario), tally.scenario.pairs, tally.scenario.trials


def _called(tally: Tally) -> tuple[Share, ...]:
    return tuple(tally.of_affected(outcome) for outcome in _CALLED)


def _noise(scenario: Scenario) -> str:
    kind = {"lognormal": "", "student": ", Student t", "shared": ", shared"}[scenario.kind]
    return f"{scenario.noise:.0%}".replace("%", " %") + kind
