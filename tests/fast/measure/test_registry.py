"""Checks as data: what decides between judged, n/a and not provable, and how a check of one's own comes in."""

from dataclasses import replace

import pytest

from context_research.engines.base import ENGINE_EVIDENCE, Counters, Evidence
from context_research.errors import UsageProblem
from context_research.hardware.load import Load
from context_research.measure.checks.builtin import BUILT_IN, PARITY
from context_research.measure.checks.output_parity import NoReference
from context_research.measure.checks.registry import (
    STATUSES,
    CaseEvidence,
    Check,
    Given,
    check_allowed,
    extended,
    judge_all,
    judged,
)
from context_research.measure.client_lag import Lag
from context_research.measure.metrics import Repeat
from context_research.workload.case import point
from tests.support.settings import chosen, resolve_model, resolved
from tests.support.timelines import timeline

WHOLE = Given({"aggregated": ENGINE_EVIDENCE}, frozenset({Evidence.WALL_TIME}))
SPLIT = Given({"prefill": ENGINE_EVIDENCE, "decode": ENGINE_EVIDENCE}, frozenset({Evidence.WALL_TIME}))
FINE = Check("fine", lambda evidence: judged("fine", True, f"{evidence.asked} asked"))


def evidence(given=WHOLE, settings=None, **values):
    """Of a case of one request that met everything it should have."""
    served = [
        timeline(
            [1.0, 1.1],
            finished=1.1,
            prefill_queued=0.0,
            prefill_started=0.0,
            prefill_finished=1.0,
            prefill_cached_tokens=0,
        )
    ]
    passed = [Repeat(0.0, 1.1, served, served)]
    known = {
        "case": point(settings or chosen(), 8, 1),
        "model": resolve_model(),
        "given": given,
        "asked": 1,
        "timelines": served,
        "steady": passed,
        "whole": passed,
        "counted": {"aggregated": Counters(generated=2)},
        "faults": {},
        "resets": {"aggregated": True},
        "dead": [],
        "client_lag": Lag(0.0, 0.0, 0.0),
        "self_test": None,
        "transport": None,
        "reference": NoReference("n/a", "not asked for"),
        "by_engine": {"a": Counters(generated=2, prompt_computed=8)},
        "load": Load(1.0, 0.0, 0.0, None, 0.5),
    }
    return CaseEvidence(**(known | values))


def statuses(given, serving="aggregated"):
    settings = chosen(serving)
    results = judge_all(BUILT_IN, evidence(given, settings))
    return {result.check: result.status for result in results}


def without(given, *kinds):
    return replace(given, by_engine={name: has - set(kinds) for name, has in given.by_engine.items()})


def test_the_order_is_the_registrys():
    assert list(statuses(WHOLE)) == [
        *("complete", "load", "tokens", "disaggregated", "transport", "cache", "client", "clock", "machine"),
        *("pressure", "parity", "first_token", "kv", "window", "waterfall"),
    ]


def test_with_all_evidence_everything_is_judged_that_arises():
    found = statuses(WHOLE)
    assert {name for name, status in found.items() if status == "n/a"} == {
        *("disaggregated", "transport", "first_token", "kv"),  # one engine
        "parity",  # no reference was asked for
        "waterfall",  # a short prompt
    }
    assert set(found.values()) == {"pass", "n/a"}


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        (Evidence.COUNTS, {"tokens", "disaggregated", "cache", "pressure"}),
        (Evidence.TRANSFERS, {"disaggregated", "transport"}),
        (Evidence.CACHED_TOKENS, {"disaggregated", "cache"}),
        (Evidence.RESETS, {"cache", "parity", "kv"}),
        (Evidence.CLOCK, {"clock", "waterfall"}),
        (Evidence.LOG, {"transport"}),
        (Evidence.OUTPUTS, {"parity", "first_token", "kv"}),
        (Evidence.ALTERNATIVES, {"kv"}),
    ],
)
def test_without_its_evidence_a_check_is_not_provable_and_never_passes(kind, checks):
    ruled = {check.name: check.ruled_out(chosen("disaggregated"), without(SPLIT, kind)) for check in BUILT_IN}
    lacking = {name: result for name, result in ruled.items() if result and result.status == "not provable"}
    assert set(lacking) == checks
    assert {r.evidence for r in lacking.values()} == {f"{kind}: not given by engine 'prefill', engine 'decode'"}


def test_the_reason_names_the_engine_that_does_not_give_it():
    given = replace(SPLIT, by_engine=SPLIT.by_engine | {"decode": ENGINE_EVIDENCE - {Evidence.COUNTS}})
    (pressure,) = (check for check in BUILT_IN if check.name == "pressure")
    assert pressure.ruled_out(chosen("disaggregated"), given).evidence == "counts: not given by engine 'decode'"


def test_a_backend_without_a_clock_on_the_wall_can_not_show_that_the_client_kept_up():
    assert statuses(replace(WHOLE, backend=frozenset()))["client"] == "not provable"


def test_what_does_not_arise_is_not_missed():
    """A single engine hands no KV over: it needs no proof of how."""
    found = statuses(without(WHOLE, Evidence.TRANSFERS, Evidence.LOG))
    assert (found["disaggregated"], found["transport"]) == ("n/a", "n/a")


def test_what_is_not_there_at_all_makes_a_check_not_applicable():
    given = Given(WHOLE.by_engine, absent={Evidence.WALL_TIME: "no client", Evidence.OUTPUTS: "no model"})
    results = {result.check: result for result in judge_all(BUILT_IN, evidence(given))}
    assert (results["client"].status, results["client"].evidence) == ("n/a", "no client")
    assert (results["parity"].status, results["parity"].evidence) == ("n/a", "no model")


def test_dummy_weights_rule_parity_out():
    assert "dummy weights" in PARITY.ruled_out(chosen(model__weights="dummy"), WHOLE).evidence


def test_a_check_of_ones_own_comes_last_and_is_judged():
    results = judge_all(extended(BUILT_IN, [FINE]), evidence())
    assert (results[-1].check, results[-1].status, results[-1].evidence) == ("fine", "pass", "1 asked")


def test_a_check_of_ones_own_can_need_what_only_a_backend_gives():
    needy = replace(FINE, needs=frozenset({Evidence.ENERGY}))
    (result,) = judge_all([needy], evidence())
    assert (result.status, result.evidence) == ("not provable", "energy: not given by the backend")


@pytest.mark.parametrize(
    ("name", "told"), [("parity", "of this name already"), ("Fine!", "lower-case"), ("", "lower-case")]
)
def test_a_name_that_is_taken_or_none_is_refused(name, told):
    with pytest.raises(UsageProblem, match=told):
        extended(BUILT_IN, [replace(FINE, name=name)])


def test_only_a_failed_check_can_be_allowed():
    broken = Check("broken", lambda _: judged("broken", False, "it is"))
    unproven = replace(FINE, needs=frozenset({Evidence.ENERGY}))
    settings = chosen(allow_invalid=["broken", "fine"])
    results = judge_all([broken, unproven], evidence(settings=settings))
    assert [result.allowed for result in results] == [True, False]


def test_allow_invalid_names_checks():
    check_allowed(resolved(allow_invalid=["parity", "fine"]), extended(BUILT_IN, [FINE]))
    with pytest.raises(UsageProblem) as problem:
        check_allowed(resolved(allow_invalid=["parity", "fine"]), BUILT_IN)
    assert str(problem.value).startswith(
        "test: allow_invalid: unknown check 'fine'; one of complete, load, tokens, disaggregated, "
    )
    assert "\n" not in str(problem.value)


def test_a_reader_sees_failures_first_and_then_what_is_not_proven():
    assert STATUSES == ("fail", "not provable", "pass", "n/a")


def test_a_judge_that_breaks_down_fails_its_check_and_no_more():
    def breaks(evidence):
        raise ZeroDivisionError("none at all")

    results = judge_all([Check("mine", breaks), FINE], evidence())
    assert (results[0].check, results[0].status) == ("mine", "fail")
    assert results[0].evidence == "could not be judged: ZeroDivisionError: none at all"
    assert results[1].status == "pass"


def test_a_result_has_its_checks_own_name():
    (result,) = judge_all([replace(FINE, name="other")], evidence(settings=chosen(allow_invalid=["other"])))
    assert result.check == "other"


def test_only_a_closed_loop_has_a_window_to_be_full():
    settings = chosen(workload__arrivals="mine")
    results = {result.check: result for result in judge_all(BUILT_IN, evidence(settings=settings))}
    assert results["window"].status == "n/a"
