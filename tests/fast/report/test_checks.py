"""Validity for readers: what has no proof stands out as a figure does, and is no pass."""

from context_research.report import checks
from tests.support import made


def case(name, **statuses):
    return made.case_record(
        name, validity=[{"check": c, "status": s, "evidence": f"{c} of {name}"} for c, s in statuses.items()]
    )


PROVEN = case("p64-c1", complete="pass", cache="pass")
UNPROVEN = case("p64-c2", complete="pass", cache="not provable")


def test_the_order_is_that_of_the_records():
    assert checks.names([case("p1-c1", zeta="pass", alpha="pass"), case("p1-c2", own="pass")]) == [
        "zeta",
        "alpha",
        "own",
    ]


def test_a_run_without_proof_is_warned_of_with_the_reason():
    assert checks.warning([PROVEN]) == ""
    assert checks.warning([PROVEN, UNPROVEN]).startswith("> **NOT PROVABLE: cache (cache of p64-c2).**")


def test_what_failed_and_what_is_not_provable_are_both_said():
    text = checks.warning([UNPROVEN, case("p64-c4", complete="fail")])
    assert "does not count: complete failed" in text
    assert "NOT PROVABLE: cache" in text


def test_a_headline_begins_with_it():
    assert checks.label([PROVEN]) == ""
    assert checks.label([PROVEN, UNPROVEN]) == "NOT PROVABLE (cache): "
