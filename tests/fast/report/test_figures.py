"""The figures: which are drawn, that nothing drops out silently, and the goodput map on a hand-made example."""

import xml.etree.ElementTree as xml
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from context_research.compare import goodput_map
from context_research.compare.observations import Arm
from context_research.measure import metrics, waterfall
from context_research.measure.metrics import Repeat
from context_research.report.figures import distributions, over_time
from context_research.report.figures import drawing as figures
from context_research.report.figures.waterfall import mean_parts
from context_research.settings.workload import Slo
from tests.support.timelines import timeline, two_slots

ABOUT = "e0, SIMULATED, tiny"


def request(ttft, gaps, **values):
    """Due at 1 s; first token after `ttft`, then the others `gaps` apart (s)."""
    moments = {"prefill_started": 1 + ttft / 4, "prefill_finished": 1 + ttft / 2} | values
    return timeline(1 + ttft + np.cumsum([0.0, *gaps]), scheduled=1.0, **moments)


def repeat(ttft=0.2, tpot=0.02, count=4, **values):
    """`count` requests in a window of 10 s."""
    requests = [request(ttft * (1 + 0.01 * i), [tpot * (1 + 0.01 * i)] * 3, **values) for i in range(count)]
    return Repeat(started=0.0, ended=10.0, timelines=requests, served=requests)


def arm(label="aggregated", units=1, cases=("p1024-c1", "p4096-c8"), **values):
    tokens = {case: int(case[1:].split("-")[0]) if case.startswith("p") else 64 for case in cases}
    unit = {case: [repeat(prompt_tokens=tokens[case], **values)] for case in cases}
    return Arm(label, (unit,) * units)


def test_one_arm_has_every_figure_but_the_comparison(drawn, tmp_path):
    drawn = figures.draw([arm()], tmp_path / "new" / "folder", ABOUT)
    assert [figure.stem for figure in drawn] == ["latency", "distributions", "waterfall", "gaps"]
    for figure in drawn:
        assert (tmp_path / f"new/folder/{figure.stem}.png").read_bytes().startswith(b"\x89PNG")
        assert xml.parse(tmp_path / f"new/folder/{figure.stem}.svg").getroot().tag.endswith("svg")


def test_two_arms_are_drawn_alike_each_time_and_leave_matplotlib_alone(drawn, tmp_path):
    pair = [arm(units=6, cases=["p64-c1"]), arm("disaggregated", units=6, cases=["p64-c1"], ttft=0.3)]
    before = dict(matplotlib.rcParams)
    drawn = figures.draw(pair, tmp_path / "1", ABOUT)
    assert dict(matplotlib.rcParams) == before
    assert [figure.stem for figure in drawn] == ["latency", "distributions", "waterfall", "gaps", "goodput"]
    assert figures.draw(pair, tmp_path / "2", ABOUT) == drawn
    for figure in drawn:
        assert (tmp_path / f"1/{figure.stem}.svg").read_bytes() == (tmp_path / f"2/{figure.stem}.svg").read_bytes()


def test_any_number_of_arms_is_drawn_each_candidate_with_a_map_of_its_own(tmp_path):
    arms = [arm(f"label {number}", units=6, cases=["p64-c1"], ttft=0.1 * number) for number in range(1, 9)]
    found = figures.draw(arms, tmp_path, ABOUT)
    maps = [f"goodput-{number}" for number in range(1, 8)]
    assert [figure.stem for figure in found] == ["latency", "distributions", "waterfall", "gaps", *maps]
    assert "arm 8 6 units, 24 requests" in found[0].caption


def test_captions_carry_counts_and_say_what_intervals_mean(tmp_path):
    latency, tails, bars, gaps, goodputs = figures.draw([arm(units=6), arm("other", units=5)], tmp_path, ABOUT)
    assert "95% interval" in latency.caption
    for caption in (latency.caption, tails.caption, bars.caption):
        assert "baseline 6 units, 48 requests; candidate 5 units, 40 requests" in caption
    assert "baseline 0.00% of 144 gaps, candidate 0.00% of 120 gaps" in gaps.caption
    assert "fewer than 6 pairs every cell is undecided" in goodputs.caption
    assert "40 / 40" in goodputs.caption
    assert "a point. 1 unit, 8 requests" in figures.draw([arm()], tmp_path, ABOUT)[0].caption


@pytest.mark.parametrize(
    "arms",
    [
        [arm(cases=("chat", "p64-c2-long", "p1024-c1"))],
        [arm(cases=("p1024-c1",)), arm(cases=("p4096-c1",))],
        [arm(cases=("p1024-c1",), units=6), Arm("empty", ())],
        [arm(count=0), arm("other")],
    ],
    ids=["other names", "no case in common", "an arm without units", "nothing completed in one arm"],
)
def test_odd_cases_are_drawn(arms, tmp_path):
    stems = [figure.stem for figure in figures.draw(arms, tmp_path, "")]
    assert stems[:4] == ["latency", "distributions", "waterfall", "gaps"]


def test_without_requests_nothing_is_drawn(tmp_path):
    assert figures.draw([arm(count=0)], tmp_path, ABOUT) == []
    assert figures.draw([Arm("empty", ()), Arm("empty", ())], tmp_path, ABOUT) == []


def test_single_tokens_have_neither_gaps_nor_tpot(tmp_path):
    requests = [request(0.2, []), request(0.3, [])]
    one = Arm("one token", ({"p64-c1": [Repeat(0.0, 10.0, requests, requests)]},) * 6)
    assert [f.stem for f in figures.draw([one, one], tmp_path, ABOUT)] == [
        "latency",
        "distributions",
        "waterfall",
        "goodput",
    ]


def test_gaps_of_zero_are_counted_and_a_case_of_only_such_is_named(tmp_path):
    chunked, whole = [request(0.2, [0.0, 0.01, 0.01, 0.02])], [request(0.2, [0.0])]
    unit = {"p64-c1": [Repeat(0.0, 10.0, chunked, chunked)], "p64-c2": [Repeat(0.0, 10.0, whole, whole)]}
    gaps = figures.draw([Arm("chunked", (unit,))], tmp_path, ABOUT)[3]
    assert "40.00% of 5 gaps" in gaps.caption
    assert "not drawn: p64-c2" in gaps.caption


def traffic(rate=2.0, seconds=20, slower=1.0, lengths=None):
    """A timed load of two classes, every tenth request a document; its window is from 5 s to 15 s."""
    served = []
    for number in range(int(rate * seconds)):
        at, document = 100 + number / rate, number % 10 == 9
        name = "document" if document else "chat"
        tokens = 4000 if document else 100
        ttft = (0.9 if document else 0.05) * slower
        served.append(
            timeline(
                at + ttft + np.arange(4) * 0.02,
                scheduled=at,
                class_name="" if lengths else name,
                phase="ramp" if at < 105 else "measured" if at < 115 else "drain",
                prompt_tokens=lengths[number % len(lengths)] if lengths else tokens,
                prefill_started=at + ttft / 4,
                prefill_finished=at + ttft / 2,
            )
        )
    measured = [each for each in served if each.phase == "measured"]
    usage = {"engine": [(100 + step, step % 4 / 4) for step in range(seconds)]}
    return Repeat.of(measured, served, window=(105.0, 115.0), kv_usage=usage)


def of_rates(label="aggregated", units=1, overloaded=(), **values):
    unit = {f"rate_{rate}": [traffic(rate, **values)] for rate in (2, 4)}
    axes = {f"rate_{rate}": {"rate": rate} for rate in (2, 4)}
    return Arm(label, (unit,) * units, axes, frozenset(overloaded))


def test_a_load_with_moments_and_classes_is_drawn_over_time_and_by_class(drawn, tmp_path):
    one = figures.draw([of_rates()], tmp_path / "1", ABOUT)
    stems = ["latency", "time-rate_2", "time-rate_4", "distributions", "waterfall", "gaps"]
    assert [figure.stem for figure in one] == stems
    assert one[0].title == "Latency by rate"
    assert "Triangles: document." in one[1].caption
    two = figures.draw([of_rates(units=6), of_rates("other", units=6, slower=2.0)], tmp_path / "2", ABOUT)
    assert [figure.stem for figure in two] == [*stems, "capacity-map"]
    assert "the first pass of 6 units, the same requests at the same moments in both arms; 40 / 40" in two[1].caption


def test_an_overloaded_case_is_drawn_over_time_alone(tmp_path):
    found = figures.draw([of_rates(overloaded=["rate_4"]), of_rates("other")], tmp_path, ABOUT)
    assert [figure.stem for figure in found][1:3] == ["time-rate_2", "time-rate_4"]
    # Of rate_2 alone: a window of 10 s at 2 a second.
    assert "baseline 1 unit, 20 requests; candidate 1 unit, 20 requests" in found[3].caption
    everywhere = figures.draw([of_rates(overloaded=["rate_2", "rate_4"])], tmp_path, ABOUT)
    assert [figure.stem for figure in everywhere] == ["time-rate_2", "time-rate_4"]


def test_without_classes_the_longest_prompts_are_marked(tmp_path):
    lengths = [*range(100, 290, 10), 9000]
    marked = figures.draw([Arm("a", ({"load": [traffic(lengths=lengths)]},))], tmp_path, ABOUT)
    assert "Triangles: longer ones." in next(each for each in marked if each.stem == "time-load").caption
    equal = figures.draw([Arm("a", ({"load": [traffic(lengths=[100])]},))], tmp_path, ABOUT)
    assert "Triangles" not in next(each for each in equal if each.stem == "time-load").caption


def test_in_flight_is_what_was_due_and_had_not_ended():
    spans = [(0.0, 4.0), (1.0, 2.0), (1.5, 5.0)]
    some = [timeline([end], scheduled=due) for due, end in spans]
    some.append(timeline([], asked=1, scheduled=3.0, error="died"))  # it never ended
    edges = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert over_time.level(some, 0.0, edges).tolist() == [1, 3, 2, 3, 2]


def test_the_tail_is_stretched_evenly_and_ends_where_its_requests_do():
    assert distributions.stretched(np.array([0, 0.9, 0.99, 0.999])) == pytest.approx([0, 1, 2, 3])


def test_stacked_parts_add_up_to_the_mean_ttft_also_where_one_is_missing_or_negative():
    requests = [
        request(0.2, [0.1]),
        request(0.4, [0.1], handoff_started=1.2, handoff_finished=1.3),
        request(0.3, [0.1], prefill_finished=1.4),
    ]
    parts = mean_parts(requests)
    assert parts["handoff"] == pytest.approx(0.1 / 3)
    assert waterfall.parts(requests[2])[waterfall.UNATTRIBUTED] < 0
    assert sum(parts.values()) == pytest.approx(np.mean([metrics.ttft(r) for r in requests]))


def outcome_at(one, outcome, ttft, tpot):
    """Of the first cell whose limits are at least these."""
    return outcome[np.searchsorted(one.tpot, tpot), np.searchsorted(one.ttft, ttft)]


@pytest.mark.parametrize(("units", "decided"), [(6, 1), (5, 0)])
def test_each_arm_wins_where_it_is_fast_if_the_units_suffice(units, decided):
    prompt, fluent = arm(units=units, ttft=0.1, tpot=0.05), arm(units=units, ttft=0.4, tpot=0.01)
    found = goodput_map.maps(prompt, fluent)
    for one, outcome in zip(found, goodput_map.decide(found), strict=True):
        assert outcome_at(one, outcome, ttft=0.2, tpot=0.052) == -decided
        assert outcome_at(one, outcome, ttft=0.42, tpot=0.02) == decided
        assert outcome[-1, -1] == 0  # both serve all
        assert outcome_at(one, one.served, ttft=0.2, tpot=0.02) == 0


def test_goodput_counts_requests_per_second_of_all_repeats():
    late = repeat(ttft=0.4)
    unit = {"c": [repeat(ttft=0.1), late]}
    one = goodput_map.maps(Arm("a", (unit,)), Arm("b", ({"c": [late]},)))[0]
    assert (one.requests, one.pairs) == ((8, 4), 1)
    assert one.baseline[0, -1, -1] == pytest.approx(8 / 20)
    assert one.candidate[0, -1, -1] == pytest.approx(4 / 10)
    assert outcome_at(one, one.baseline[0], ttft=0.2, tpot=0.02 * 1.03) == pytest.approx(4 / 20)
    assert one.candidate[0, :, 0].max() == 0


def test_goodput_is_per_device():
    on_two = replace(repeat(ttft=0.1), devices=2)
    [one] = goodput_map.maps(Arm("a", ({"c": [repeat(ttft=0.1)]},)), Arm("b", ({"c": [on_two]},)))
    assert one.candidate[0, -1, -1] == pytest.approx(one.baseline[0, -1, -1] / 2)
    assert one.gain[-1, -1] == pytest.approx(-0.5)


def test_the_maps_limits_hold_the_slo_and_a_round_number_beyond_the_largest_value():
    own = [replace(repeat(ttft=0.2, tpot=0.02), slo=Slo(ttft=1.0, tpot=0.005))]
    [one] = goodput_map.maps(Arm("a", ({"c": own},)), Arm("b", ({"c": own},)))
    assert (one.slo.ttft, one.slo.tpot) == (1.0, 0.005)
    assert one.ttft[-1] == pytest.approx(2.0)  # beyond the SLO
    assert one.tpot[-1] == pytest.approx(0.05)  # beyond 1.25 × 20.6 ms
    assert one.tpot[0] < 0.005


def test_a_class_is_mapped_with_its_own_slo():
    served = traffic()
    both = replace(served, slo=Slo(ttft=0.5), class_slos={"document": Slo(ttft=5.0)})
    one, other = (Arm(label, ({"c": [both]},)).by_class() for label in "ab")
    found = {each.case: each.slo.ttft for each in goodput_map.maps(one, other)}
    assert found == {"c chat": 0.5, "c document": 5.0}


def test_goodput_leaves_ramp_and_drain_out_but_for_the_load_they_are():
    unit = {"c": [two_slots()]}
    one = goodput_map.maps(Arm("a", (unit,)), Arm("b", (unit,)))[0]
    assert one.requests == (2, 2)
    assert one.baseline[0, -1, -1] == pytest.approx(1)


def test_a_single_token_meets_every_tpot_limit():
    requests = [request(0.2, []), request(0.2, [0.05])]
    unit = {"c": [Repeat(0.0, 10.0, requests, requests)]}
    one = goodput_map.maps(Arm("a", (unit,)), Arm("b", (unit,)))[0]
    assert one.baseline[0, 0, -1] == pytest.approx(0.1)
    assert one.baseline[0, -1, -1] == pytest.approx(0.2)


def test_a_difference_in_too_few_pairs_is_no_test():
    slow, fast = arm(ttft=0.4, cases=("c",)).units, arm(ttft=0.1, cases=("c",)).units
    found = goodput_map.maps(Arm("a", slow * 10), Arm("b", slow * 5 + fast * 5))
    assert not goodput_map.decide(found)[0].any()
    found = goodput_map.maps(Arm("a", slow * 10), Arm("b", slow * 2 + fast * 8))
    assert goodput_map.decide(found)[0].any()
