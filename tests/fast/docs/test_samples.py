"""The samples of a verdict in the pages are what this code makes of the kept one."""

import json
from dataclasses import replace

import pytest

from context_research.compare import statistics, verdict
from context_research.compare.comparison import of_ab
from context_research.compare.statistics import Pairs
from context_research.report import verdicts, words
from tests.support import made_runs
from tests.support.suite import ROOT

KEPT = ROOT / "docs/results/ab-cpu/verdict.json"
FIELDS = ("case", "metric", "statistic", "unit", "lower_is_better")


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """The kept pairs, judged; all else is a made A/B's, as its runs are not kept."""
    kept = json.loads(KEPT.read_text())
    family = [
        Pairs(*(each[field] for field in FIELDS), tuple(each["baseline"]), tuple(each["candidate"]))
        for each in kept["primary"]
    ]
    found = statistics.decide(family, kept["practical"])
    made = verdict.judge(of_ab(made_runs.A_B(tmp_path_factory.mktemp("ab"), pairs=len(family[0].baseline))))
    return replace(made, primary=found, asked_at_once=len(found), descriptive=())


def squeezed(text):
    return " ".join(text.split())


@pytest.mark.parametrize(("page", "rows"), [("README.md", 4), ("docs/first-steps.md", 8)])
def test_a_page_s_sample_is_what_comes_out(findings, page, rows):
    [sample] = [block for block in (ROOT / page).read_text().split("```text\n")[1:] if block.startswith("metric ")]
    table, found, told = sample.partition("```")[0].partition("disaggregated ")
    lines = [squeezed(line) for line in table.splitlines() if not line.startswith("--")]
    made = [squeezed(line) for line in verdicts.terminal_table(findings).splitlines()]
    assert set(lines) <= set(made)
    assert (lines[0], len(lines)) == (made[0], rows + 1)
    assert squeezed(found + told) == words.headline(findings)
