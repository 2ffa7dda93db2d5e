import re

import pytest

from context_research.compare import verdict
from context_research.compare.comparison import of_ab, of_runs
from context_research.report import comparison as report
from context_research.report import verdicts, words
from tests.support import made_runs
from tests.support.artifacts import cells, keep, plain
from tests.support.made_runs import CASE

SIMULATED = {arm: {"backend": "simulated"} for arm in ("baseline", "candidate")}


def judged(outputs, primary=None, noise_floor=None, **ab):
    return verdict.judge(of_ab(made_runs.A_B(outputs, **ab)), primary, noise_floor=noise_floor)


def written(outputs, **ab):
    return report.write(judged(outputs, **ab)).read_text()


def test_the_verdict_comes_first_and_the_runs_last(tmp_path):
    text = written(tmp_path, figures={CASE: made_runs.FLAT[CASE] | {"e2e": [0.2]}})
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Verdict",
        "Figures",
        "All requests",
        "Other metrics",
        "Validity",
        "Method",
        "What differs",
        "Runs, in their order",
    ]
    assert text.startswith("# e0: disaggregated (1P1D) against aggregated (1 engine)\n")


def test_the_words_come_first(tmp_path):
    found = judged(tmp_path, ratio=1.3, noise=0.001)
    first = report.write(found).read_text().splitlines()[2]
    assert first.startswith("**disaggregated (1P1D) against aggregated (1 engine), 6 pairs:** TTFT worse, by 30 %. ")
    assert first.replace("**", "") == words.headline(found)
    assert "p90" in first
    assert "p90" not in verdicts.terminal_table(found)


def test_the_verdicts_have_their_figures(tmp_path):
    text = report.write(judged(tmp_path, ratio=1.3, noise=0.001)).read_text()
    metric, case, outcome, ratio, interval, baseline, candidate, p, flips, why = cells(text, "## Verdict")[0]
    assert (metric, case, outcome, ratio) == ("TTFT", CASE, "worse", "1.301")
    assert re.fullmatch(r"1\.\d{3} to 1\.\d{3}", interval)
    assert (baseline, candidate, p, flips, why) == ("99.9 ms", "130 ms", "< 0.0001", "0.031", "")


def test_an_undecided_one_says_why_and_what_would_tell(tmp_path):
    row = cells(written(tmp_path, pairs=2), "## Verdict")[0]
    assert row[2] == "undecided"
    assert row[4] == row[7] == row[8] == "–"
    assert re.fullmatch(r"2 pairs: fewer than 6 decide nothing; at this noise about \d+ pairs would tell", row[9])


def test_a_single_pair_is_reported_all_the_same(tmp_path):
    assert "1 paired session." in written(tmp_path, pairs=1)


def test_figures_are_there_and_linked_by_relative_paths(drawn, tmp_path):
    found = judged(tmp_path)
    path = report.write(found)
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    assert {link.rpartition(".")[2] for link in links} == {"png", "svg"}
    assert len(links) >= 4
    for link in links:
        assert link.startswith("ab1/")
        assert (path.parent / link).stat().st_size > 1000


def test_a_simulated_comparison_says_so_before_any_figure(tmp_path):
    text = written(tmp_path, changes=SIMULATED)
    assert "> **SIMULATED: no engine ran, these are a model's figures.**" in text.partition("## Verdict")[0]
    assert "no cell is judged" in text
    assert "Student" not in text
    assert "95%" not in text
    assert "simulated, so without an interval" in text
    assert "SIMULATED" not in written(tmp_path / "real")


def test_an_allowed_difference_is_shown_before_any_figure(tmp_path):
    changes = {"candidate": {"settings.model.dtype": "bfloat16"}}
    text = written(tmp_path, changes=changes, allow_different=["model.dtype"])
    assert "> **model.dtype differs, and was allowed to:** float32 / bfloat16." in text.partition("## Verdict")[0]
    assert ["settings.model.dtype", "float32", "bfloat16"] in cells(text, "## What differs")


def test_a_family_named_afterwards_is_no_proof(tmp_path):
    afterwards = report.write(judged(tmp_path, primary=["tpot"])).read_text()
    assert "**named afterwards: a hint for the next measurement, no proof**" in afterwards
    assert "which was named beforehand" in written(tmp_path / "b")


def test_bars_and_line_breaks_in_values_break_no_table(tmp_path):
    changes = {"candidate": {"environment_manifest.variables.VLLM_X": "a|b\nc"}}
    text = written(tmp_path, changes=changes)
    assert ["environment_manifest.variables.VLLM_X"[21:], "–", "a\\|b c"] in cells(text, "## What differs")


@pytest.mark.parametrize("pairs", [1, 6])
def test_every_table_has_as_many_cells_in_each_row(tmp_path, pairs):
    arms = {"baseline": "aggregated", "candidate": "aggregated --set 'model.name=a|b'"}
    text = written(tmp_path, pairs=pairs, arms=arms)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_validity_counts_cases_and_runs(tmp_path):
    assert cells(written(tmp_path, pairs=2), "## Validity") == [["complete", "2 pass", "2 pass"]]


def test_runs_are_in_the_order_in_which_they_ran(tmp_path):
    runs = cells(written(tmp_path, pairs=2), "## Runs, in their order")
    arms = [row[1] for row in runs]
    assert {row[3] for row in runs} == {"0,1"}
    one, other = "aggregated (1 engine)", "disaggregated (1P1D)"
    assert arms == [one, other, other, one]


def test_two_runs_tell_of_the_start_noise_and_are_named_after_both(tmp_path):
    found = verdict.judge(of_runs(*made_runs.pair(tmp_path)))
    path = report.write(found)
    assert path == tmp_path / "reports" / "r2-vs-r1.md"
    text = path.read_text()
    assert "intervals are widened by 10% (--start-noise)" in text
    assert "The unit is a repeat of a run" in text
    assert "widened" not in written(tmp_path / "ab")


def test_all_requests_are_those_of_the_files(tmp_path):
    shown = cells(written(tmp_path, pairs=2), "## All requests")
    assert ["ttft", CASE, "aggregated (1 engine)", "4"] in [row[:4] for row in shown]
    assert {row[2] for row in shown} == {"aggregated (1 engine)", "disaggregated (1P1D)"}


def test_the_terminal_gets_the_same_verdicts(tmp_path):
    table = verdicts.terminal_table(judged(tmp_path, ratio=1.3))
    assert len(re.findall(r"^TTFT  +p64\b.*\bworse\b", table, re.M)) == 1
    assert "95 % interval" in table.splitlines()[0]


def test_a_noise_floor_is_named_in_the_report(tmp_path):
    arms = {"baseline": "aggregated", "candidate": "aggregated"}
    floor = of_ab(made_runs.A_B(tmp_path, ab_id="the-aa", arms=arms))
    found = judged(tmp_path, ratio=1.3, noise_floor=floor)
    assert "the-aa" in report.write(found).read_text()


def test_no_metrics_outside_the_family_leave_no_section(tmp_path):
    assert "## Other metrics" not in written(tmp_path)


def test_a_comparison_without_proof_says_so_in_its_headline_and_its_report(tmp_path):
    files = made_runs.A_B(tmp_path)
    for path in (tmp_path / "runs").glob("*/e0_summary.json"):
        checks = [{"check": "cache", "status": "not provable", "evidence": "no counts"}]
        made_runs.edit(path, "summary", cases__0__validity=checks)
    findings = verdict.judge(of_ab(files))
    assert words.headline(findings).startswith(
        "NOT PROVABLE (cache): disaggregated (1P1D) against aggregated (1 engine), 6 pairs: "
    )
    text = report.write(findings).read_text()
    assert "> **NOT PROVABLE: cache (no counts).**" in text
    assert "not provable" in text.partition("## Validity")[2].partition("## Method")[0]


def overloaded(files, arm="candidate"):
    """Have an A/B's runs of one arm be overloaded, and their latencies withheld."""
    withheld = {"count": 0, **dict.fromkeys(("mean", "p50", "p90", "p95", "p99")), "missing": "overloaded: it grew"}
    for path in files.outputs.glob(f"runs/*-{arm}/e0_summary.json"):
        kept = plain(path, "summary")
        case = kept["cases"][0] | {"overload": {"overloaded": True, "slope": 0.8, "p": [0.0]}}
        case["metrics"] = {name: figure | withheld for name, figure in case["metrics"].items() if name == "ttft"}
        kept["cases"] = [case | {"metrics": kept["cases"][0]["metrics"] | case["metrics"]}]
        keep(path, "summary", kept)
    return files


def test_an_overloaded_arm_is_named_first_and_its_latencies_are_not_compared(tmp_path):
    found = verdict.judge(of_ab(overloaded(made_runs.A_B(tmp_path))))
    text = report.write(found).read_text()
    told = f"> **OVERLOADED: disaggregated (1P1D) in {CASE} (6 of 6 sessions).**"
    assert told in text.partition("## Verdict")[0]
    ttft, tpot, *_ = cells(text, "## Verdict")
    assert (ttft[2], ttft[9]) == (
        "undecided",
        "overloaded: disaggregated (1P1D); a latency would only say how long the run was",
    )
    assert tpot[2] != "undecided"
    assert "TTFT undecided (overloaded: disaggregated (1P1D))." in words.headline(found)
    assert "## All requests" not in text
    assert "OVERLOADED" not in written(tmp_path / "sound")


def test_classes_have_rows_of_their_own(tmp_path):
    figures = {CASE: made_runs.FLAT[CASE] | {"chat.ttft": [0.05]}}
    text = report.write(judged(tmp_path, primary=["chat.ttft"], figures=figures, ratio=1.3)).read_text()
    assert cells(text, "## Verdict")[0][:3] == ["chat TTFT", CASE, "worse"]


def test_the_load_of_both_arms_is_described(tmp_path):
    assert "Load: closed loop, 1, 4 in flight" in written(tmp_path).partition("## Verdict")[0]
