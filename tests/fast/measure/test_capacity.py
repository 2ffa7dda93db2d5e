import math

import pytest

from context_research.measure import capacity
from context_research.records.case import ArrivalsRecord, CaseRecord, OverloadRecord
from context_research.records.summary import PointRecord
from tests.support import made
from tests.support.settings import chosen

TARGET = 0.9


def points(*attained, rates=(1.0, 2.0, 4.0, 8.0), due=100, overloaded=()):
    return [
        PointRecord(case=f"r{rate:g}", rate=rate, due=due, met=round(share * due), overloaded=rate in overloaded)
        for rate, share in zip(rates, attained, strict=False)
    ]


def found(*attained, **how):
    crossed = capacity.crossing(points(*attained, **how), TARGET)
    return crossed.rate, crossed.bound


def test_it_lies_where_a_line_between_two_rates_crosses_the_target():
    """Halfway from 100 % at 2 to 80 % at 4, of the rate's logarithm."""
    assert found(1.0, 1.0, 0.8, 0.0) == (pytest.approx(2 * math.sqrt(2)), "exact")


def test_a_rate_just_at_the_target_is_carried():
    assert found(1.0, 0.9, 0.0, 0.0) == (pytest.approx(2.0), "exact")


def test_a_grid_that_ends_before_gives_a_bound():
    assert found(1.0, 1.0, 0.95, 0.9) == (8.0, "at least")
    assert found(0.89, 0.5, 0.1, 0.0) == (1.0, "at most")


def test_attainment_that_rises_again_is_pooled_with_its_neighbour():
    """80 % and 96 % are 88 % of twice the requests: the crossing is before the first of the two."""
    rate, bound = found(1.0, 0.8, 0.96, 0.0)
    assert (rate, bound) == (pytest.approx(2 ** ((1.0 - 0.9) / (1.0 - 0.88))), "exact")


def test_more_requests_weigh_more():
    some = points(1.0, 0.8, 0.96, 0.0)
    some[1] = some[1].model_copy(update={"due": 10, "met": 8})
    crossed = capacity.crossing(some, TARGET)
    assert 4.0 < crossed.rate < 8.0


def test_an_overloaded_rate_is_not_carried_whatever_was_met_there():
    assert found(1.0, 1.0, 0.95, 0.0)[0] > 4.0
    assert 2.0 < found(1.0, 1.0, 0.95, 0.0, overloaded=(4.0, 8.0))[0] < 4.0


def test_an_alarm_among_rates_that_were_carried_is_taken_for_a_false_one():
    assert found(1.0, 1.0, 0.95, 0.0, overloaded=(2.0, 8.0)) == found(1.0, 1.0, 0.95, 0.0, overloaded=(8.0,))
    assert capacity.without_steady_state([False, True, False, False, True, True]) == [False] * 4 + [True] * 2
    assert capacity.without_steady_state([False, True, True, False, True]) == [False] + [True] * 4


def test_rates_at_which_nothing_was_due_say_nothing():
    assert capacity.crossing(points(1.0, 1.0, due=0), TARGET) is None


# Of a run's cases

SLOS = [{"ttft": 2.0, "tpot": 0.05}, {"ttft": 0.5, "attainment": 0.5}]


def case(rate, *attained, seen=None, overloaded=False, **axes):
    record = CaseRecord.model_validate(made.case("p64-c1"))
    arrivals = ArrivalsRecord(due={"": 100}, rate=seen or rate, cv=1.0)
    overload = OverloadRecord(overloaded=overloaded, slope=0.0, p=(0.5,))
    named = {"prompt_tokens": 64, **axes, "rate": rate}
    return record.model_copy(
        update={
            "name": f"p64-rate_{rate}",
            "axes": named,
            "arrivals": arrivals,
            "attained": tuple(attained),
            "overload": overload,
        }
    )


def of(*cases, slo=None, devices=2):
    return capacity.of_cases(cases, chosen(slo=SLOS if slo is None else slo), devices)


def test_there_is_one_for_every_slo_per_device():
    tight, loose = of(case(2, (100, 100), (100, 100)), case(4, (80, 100), (0, 100)))
    assert (tight.within, loose.within) == ("TTFT 2 s, TPOT 50 ms at 90%", "TTFT 500 ms at 50%")
    assert tight.rate == pytest.approx(math.sqrt(2))
    assert loose.rate == pytest.approx(math.sqrt(2))
    assert [point.rate for point in tight.points] == [1.0, 2.0]
    assert (tight.load, tight.name) == ("", "within TTFT 2 s, TPOT 50 ms at 90%")


def test_every_load_has_its_own():
    every = [case(rate, (100, 100), prompt_tokens=length) for length in (64, 128) for rate in (2, 4)]
    assert [each.load for each in of(*every, slo=SLOS[0])] == ["prompt_tokens_64", "prompt_tokens_128"]


def test_one_rate_has_none_and_neither_has_a_closed_loop():
    assert of(case(2, (100, 100))) == ()
    closed = [case(rate, (100, 100)).model_copy(update={"arrivals": None}) for rate in (2, 4)]
    assert of(*closed) == ()


def test_a_figure_is_a_metric_and_a_bound_says_why_it_is_none():
    exact, bound = (
        each.metric for each in of(case(2, (100, 100), (100, 100)), case(4, (80, 100), (100, 100)), devices=1)
    )
    assert exact.value("mean") == pytest.approx(2 * math.sqrt(2))
    assert (bound.value("mean"), bound.missing) == (None, "at least 4/s: the grid of rates ends there")
    assert not exact.lower_is_better


def test_rates_in_any_order_are_the_same():
    cases = [case(rate, (met, 100)) for rate, met in ((4, 80), (1, 100), (2, 100))]
    [one] = of(*cases, slo=SLOS[0])
    [other] = of(*sorted(cases, key=lambda each: each.axes["rate"]), slo=SLOS[0])
    assert one == other
