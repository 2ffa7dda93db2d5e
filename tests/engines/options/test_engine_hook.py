"""An engine from somebody else's plugin: it need not be vLLM, and what it can't show is not taken for shown."""

import json

import pytest

from context_research.engines.base import ENGINE_EVIDENCE
from context_research.measure.checks.registry import Check, judged
from tests.support.artifacts import metadata, rows_saved, summary
from tests.support.foreign import Foreign
from tests.support.suite import SMALL

FEW = ("--seed=0", *SMALL, "--concurrency=1", "--allow-invalid=client")


class Makes:
    """A plugin that makes engines, and adds a check."""

    def __init__(self, make=Foreign):
        self._make = make

    def pytest_context_research_make_engine(self, placement, log):
        return self._make(placement, log)


class AddsCheck:
    def __init__(self, name="steady", good=True):
        self._check = Check(name, lambda evidence: judged(name, good, f"{evidence.asked} were asked for"))

    def pytest_context_research_checks(self):
        return [self._check]


def test_what_an_engine_can_not_show_is_shown_as_that(suite):
    result = suite.inside(*FEW, plugins=[Makes()])
    result.assert_outcomes(passed=1)
    (case,) = summary(suite.run)["cases"]
    statuses = {check["check"]: check["status"] for check in case["validity"]}
    lacking = {name for name, status in statuses.items() if status == "not provable"}
    assert lacking == {"tokens", "cache", "clock", "pressure", "parity", "waterfall"}
    assert (statuses["complete"], statuses["disaggregated"]) == ("pass", "n/a")
    result.stdout.fnmatch_lines(["NOT PROVABLE: tokens, cache, * (tokens: *not given by engine 'aggregated'*)"])
    report = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert "> **NOT PROVABLE: tokens (" in report
    named = "NOT PROVABLE: tokens, cache, clock, pressure, parity, waterfall"
    rows = [row["fullname"] for path in rows_saved(suite.path) for row in json.loads(path.read_text())["benchmarks"]]
    assert rows
    assert all(named in row for row in rows)


def test_an_engine_that_says_nothing_of_its_evidence_is_held_to_all_of_it(suite):
    class Silent(Foreign):
        capabilities = ENGINE_EVIDENCE

        async def reset_prefix_cache(self):
            return True

    suite.inside(*FEW, plugins=[Makes(Silent)]).assert_outcomes(failed=1)
    (case,) = summary(suite.run)["cases"]
    checks = {check["check"]: check for check in case["validity"]}
    assert "of 2 of 2 requests the engine did not say" in checks["cache"]["evidence"]
    assert "aggregated counted no token at all" in checks["pressure"]["evidence"]
    assert metadata(suite.run)["status"] == "invalid"


def test_an_engine_without_processes_or_a_configuration_is_recorded_by_its_class(suite):
    suite.inside(*FEW, plugins=[Makes()]).assert_outcomes(passed=1)
    recorded = metadata(suite.run)
    (engine,) = recorded["engines"]
    assert recorded["status"] == "completed"
    assert engine["class"] == "tests.support.foreign.Foreign"
    assert engine["product"] == "tgi"
    assert engine["devices"]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda *_: object(), "builtins.object is no engine: it lacks name, role, log, counters, *"),
        (type("Mute", (Foreign,), {"describe": None}), "*.Mute is no engine: it lacks describe (engines/base.py)"),
        (type("Odd", (Foreign,), {"describe": lambda _: 7}), "*.Odd is no engine: its describe() gives int, *"),
    ],
    ids=["no engine", "no describe", "no description"],
)
def test_what_is_no_engine_ends_the_run_in_one_line(suite, make, told):
    result = suite.inside(*FEW, plugins=[Makes(make)])
    result.stdout.fnmatch_lines([f"*{told}"])
    assert "INTERNALERROR" not in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    assert metadata(suite.run)["status"] == "error"


def test_a_check_of_ones_own_is_judged_shown_and_can_be_allowed(suite):
    result = suite.inside(*FEW, "--allow-invalid=client,steady", plugins=[Makes(), AddsCheck(good=False)])
    result.assert_outcomes(passed=1)
    (case,) = summary(suite.run)["cases"]
    assert [check["check"] for check in case["validity"]][-1] == "steady"
    result.stdout.fnmatch_lines(["steady FAIL, allowed in 1 of 1 cases; *2 were asked for*"])


def test_a_check_of_ones_own_fails_the_run(suite):
    result = suite.inside(*FEW, plugins=[Makes(), AddsCheck(good=False)])
    result.assert_outcomes(failed=1)
    assert metadata(suite.run)["status"] == "invalid"


def test_a_check_whose_name_is_taken_is_refused_before_anything_runs(suite):
    result = suite.inside(*FEW, plugins=[Makes(), AddsCheck("parity")])
    result.stderr.fnmatch_lines(["*check 'parity': there is one of this name already"])
    assert not (suite.path / "outputs").exists()
