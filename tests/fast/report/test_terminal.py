"""What a terminal gets after a run: few lines, and none of what went wrong is missing."""

from context_research.report import terminal
from tests.support import made


def case(name="p64-c1", ttft=0.1, tpot=0.01, **values):
    metrics = {"ttft": made.metric(mean=ttft, p50=ttft), "tpot": made.metric(mean=tpot, p50=tpot)}
    return made.case_record(name, **({"metrics": metrics} | values))


def checks(**statuses):
    return [{"check": name, "status": status, "evidence": f"why {name}"} for name, status in statuses.items()]


def lines(*cases, **run):
    return list(terminal.lines(made.run_record(**({"planned": len(cases)} | run)), cases))


def test_a_sound_run_takes_three_lines():
    sound = checks(complete="pass", cache="pass", transport="n/a")
    told = lines(case(validity=sound), case("p256-c4", 0.4, 0.02, validity=sound))
    assert len(told) == 3
    assert told[0].endswith("CPU cores, aggregated, seed 0: 2 of 2 cases passed")
    assert told[1:] == [
        "figures: TTFT p50 100 ms (p64-c1) to 400 ms (p256-c4); TPOT p50 10 ms (p64-c1) to 20 ms (p256-c4)",
        "checks: 2 pass, 1 n/a",
    ]


def test_of_one_case_there_is_a_value_and_no_span():
    assert lines(case())[1] == "figures: TTFT p50 100 ms; TPOT p50 10 ms"


def test_cases_are_counted_by_how_they_ended_and_against_the_plan():
    told = lines(case(), case("p64-c2", status="invalid"), planned=3)[0]
    assert told.endswith("1 of 3 cases passed, 1 of 3 cases invalid")
    assert lines(planned=2)[0].endswith("0 of 2 cases finished")


def test_each_failed_check_has_a_line_with_its_evidence_and_those_without_proof_share_one():
    bad = checks(complete="fail", cache="not provable", kv="not provable", clock="pass")
    told = lines(case(validity=checks(complete="pass", clock="pass")), case("p64-c2", validity=bad))
    assert told[2:] == [
        "checks: 1 fail, 2 not provable, 1 pass",
        "complete FAIL in 1 of 2 cases; p64-c2: why complete",
        "NOT PROVABLE: cache, kv (cache: why cache)",
    ]


def test_long_evidence_is_cut_and_an_allowed_failure_says_so():
    bad = [{"check": "client", "status": "fail", "evidence": "x" * 1000, "allowed": True}]
    [told] = [line for line in lines(case(validity=bad)) if line.startswith("client")]
    assert told.startswith("client FAIL, allowed in 1 of 1 cases; p64-c1: xxx")
    assert len(told) < 400


def test_classes_have_a_line_each_with_what_share_met_its_slos():
    metrics = {
        name: made.metric(unit, 9, value, p50=value)
        for name, unit, value in (
            ("ttft", "s", 0.1),
            ("chat.ttft", "s", 0.05),
            ("attainment", "share", 0.9),
            ("chat.attainment", "share", 0.95),
        )
    }
    assert lines(case(metrics=metrics))[1:3] == [
        "figures: TTFT p50 100 ms; SLOs met 90 %",
        "chat: TTFT p50 50 ms; SLOs met 95 %",
    ]


def test_an_overload_and_a_case_that_was_run_again_are_said():
    grown = case(metrics={}, overload={"overloaded": True, "slope": 0.8, "p": [0.0]}, reruns=["luck", "a coin"])
    told = lines(grown)
    assert "OVERLOADED: p64-c1; latencies would only say how long the run was" in told
    assert told[-1] == "p64-c1 was run again, 2 ×: a coin"
