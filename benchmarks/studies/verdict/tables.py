"""The tables of the calibration, in percent with 95 % intervals; as docs/results has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from context_research.compare.statistics import PRACTICAL
from scenarios import Scenario
from tallies import Bar, Share, Tally

Table = tuple[str, Sequence[str], Iterable[Sequence[object]]]
"""Title, header and rows."""
_SETTING = ("family", "affected", "noise", "pairs", "trials")


def markdown(tallies: Sequence[Tally], bars: Sequence[Bar]) -> str:
    """Every table."""
    alike = [t for t in tallies if t.scenario.pattern == "none"]
    at_margin = [t for t in tallies if t.scenario.effect == 1 + PRACTICAL]
    affected = [t for t in tallies if t.scenario.pattern != "none" and t not in at_margin]
    tables: list[Table] = [
        ("Bars", ("bar", "limit", "%", ""), [(bar.name, bar.rule, bar.share, bar.verdict) for bar in bars]),
        (
            "Identical arms",
            (*_SETTING, "any false alarm", "figures equivalent", "interval holds"),
            [(*_setting(t.scenario), t.any_false_alarm, _equivalent(t), t.coverage) for t in alike],
        ),
        (
            "Beside true effects",
            (*_SETTING, "effect", "found", "any false alarm", "interval holds", "mean pairs"),
            [
                (
                    *_setting(t.scenario),
                    f"{t.scenario.effect - 1:.0%}",
                    t.power,
                    t.any_false_alarm,
                    t.coverage,
                    f"{t.mean_pairs:.1f}",
                )
                for t in affected
            ],
        ),
        (
            "At the practical margin",
            (*_SETTING, "any wrong `equivalent`"),
            [(*_setting(t.scenario), t.any_wrongly_equivalent) for t in at_margin],
        ),
        (
            "Other ways to judge the same pairs: found / any false alarm, %",
            (*_SETTING, "effect", "chosen", *next(t.by_others for t in tallies if t.by_others)),
            [
                (
                    *_setting(t.scenario),
                    f"{t.scenario.effect - 1:.0%}" if t.scenario.pattern != "none" else "–",
                    _both(t.power, t.any_false_alarm),
                    *(_both(*reversed(t.others(name))) for name in t.by_others),
                )
                for t in tallies
                if t.by_others and t not in at_margin
            ],
        ),
    ]
    return "\n\n".join(
        f"**{title}**\n\n"
        + tabulate([[str(cell) for cell in row] for row in rows], header, tablefmt="github", disable_numparse=True)
        for title, header, rows in tables
    )


def _setting(scenario: Scenario) -> tuple[object, ...]:
    kind = "" if scenario.kind == "normal" else f", {scenario.kind}"
    pairs = f"looks at {', '.join(map(str, scenario.looks))}" if scenario.looks else scenario.pairs
    family = f"{scenario.family} + tails" if scenario.tails else scenario.family
    return family, scenario.pattern, f"{100 * scenario.noise:g} %{kind}", pairs, scenario.trials


def _equivalent(tally: Tally) -> Share:
    return Share(tally.spared["equivalent"], tally.spared.total())


def _both(found: Share, alarms: Share) -> str:
    return f"{100 * found.rate:.0f} / {100 * alarms.rate:.1f}" if found.of else f"– / {100 * alarms.rate:.1f}"
