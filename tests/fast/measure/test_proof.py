"""The checks of what every count hides, on made-up engines: clocks, first tokens, token counts, the machine, KV."""

import asyncio
import time

import psutil
import pytest

from context_research.engines.base import Counters
from context_research.hardware.load import Gpu, Load, between, read
from context_research.hardware.processes import Process
from context_research.measure.checks import clocks, first_token, kv_probe, machine, token_counts
from context_research.measure.checks.first_token import LookedUp, look_up
from context_research.measure.checks.kv_probe import Probe, Yardstick
from context_research.measure.checks.machine import Treatment
from context_research.measure.checks.token_counts import Ours
from context_research.measure.intervals import most_at_once
from context_research.request import Leg, Request, Timeline
from context_research.workload.case import point
from context_research.workload.prompts import alone
from tests.support.settings import chosen

MS = 1e-3


def served(number=0, delay=0.5 * MS, gap=10 * MS, tokens=8, first=(7, 7), began=0.0):
    """A request over two engines: its prompt is done after 20 ms, then a token every `gap`."""
    done = began + 20 * MS
    prefill = Leg("p", "prefill", began, [first[0]], [done + delay], [done], began, began, done)
    had = [done + 5 * MS + gap * index for index in range(tokens)]
    decode = Leg("d", "decode", done + delay, [first[1], *range(tokens - 1)], [at + delay for at in had], had)
    decode.queued = decode.started = done + delay
    decode.first_token = had[0]
    return Timeline(f"r{number}", "0", 0, began, 8, tokens, legs=[prefill, decode])


def in_turn(count=10, **values):
    return [served(number, began=number * 0.2, **values) for number in range(count)]


def clock(timelines, in_flight=1):
    return clocks.judge(timelines, in_flight)


def test_a_client_that_keeps_up_passes():
    check = clock(in_turn())
    assert check.status == "pass"
    assert check.evidence.startswith("90 tokens came 0.5 ms to 0.5 ms after the engine had them")


@pytest.mark.parametrize(
    ("delay", "told"),
    [(-1 * MS, "before its engine had it"), (5 * MS, "late by as much"), (20 * MS, "late by more than a step")],
)
def test_a_client_whose_times_are_off_is_found(delay, told):
    check = clock(in_turn(delay=delay))
    assert check.status == "fail"
    assert told in check.evidence


def test_first_tokens_that_are_late_are_found_among_many_others():
    timelines = in_turn(tokens=32, gap=20 * MS)
    for timeline in timelines:
        timeline.decode.token_times[0] += 15 * MS
        timeline.prefill.token_times[0] += 15 * MS
        timeline.decode.sent = timeline.decode.queued = timeline.decode.started = None
    assert "late by as much" in clock(timelines).evidence


def test_a_few_late_tokens_of_many_are_the_machines():
    timelines = in_turn()
    for timeline in timelines[:3]:
        timeline.decode.token_times[3] += 15 * MS
    assert clock(timelines).status == "pass"
    timelines[4].decode.token_times[3] += 15 * MS
    assert "4 of 70 after the engine's next one" in clock(timelines).evidence
    assert clock(timelines).status == "fail"
    assert clocks.judge(timelines, 1, 6 * MS).status == "pass"  # the loop was as late, which `client` judges


def test_requests_beyond_the_load_are_found():
    together = [served(0), served(1)]
    assert clock(together, 2).status == "pass"
    assert clock(together, None).status == "pass"
    assert "2 requests were in flight at once, where the load has 1" in clock(together).evidence


def test_an_effect_before_its_cause_is_found():
    wrong = served()
    wrong.decode.started = wrong.prefill.sent
    assert "r0 was started (d) 20.5 ms before it was queued (d)" in clock([wrong]).evidence


def test_an_engine_that_tells_no_moments_can_not_be_judged():
    silent = served()
    silent.prefill.first_token = silent.decode.first_token = None
    assert clock([silent]).status == "n/a"


def test_a_span_that_begins_where_another_ends_does_not_meet_it():
    assert most_at_once([(0, 1), (1, 2), (1.5, 3), (None, 4)]) == 2


def same(count, **values):
    return [served(number, first=(number, number), **values) for number in range(count)]


def first(timelines, looked_up=(), exact=False, sampled=False):
    return first_token.judge(timelines, looked_up, "cuda", exact=exact, sampled=sampled)


def test_equal_first_tokens_pass_and_a_different_one_fails_where_it_must_be_equal():
    assert first(same(4), exact=True).status == "pass"
    check = first([*same(4), served(9, first=(1, 2))], exact=True)
    assert (check.status, check.evidence) == (
        "fail",
        "4 of 5 requests have the same first token of both engines; not r9",
    )


def test_first_tokens_that_are_alike_for_all_prompts_prove_nothing():
    assert first([served(0), served(1)]).status == "not provable"


@pytest.mark.parametrize(
    ("looked_up", "status"),
    [
        ([LookedUp("r9", 0.7)], "pass"),
        ([LookedUp("r9", 0.8)], "fail"),
        ([LookedUp("r9", 0.1), LookedUp("r8", 2.0, True)], "fail"),
        ([LookedUp("r9", None)], "not provable"),
        ([], "not provable"),
    ],
)
def test_in_sixteen_bits_a_near_tie_may_turn(looked_up, status):
    assert first([*same(4), served(9, first=(1, 2)), served(8, first=(1, 2))], looked_up).status == status


@pytest.mark.parametrize(("wrong", "status"), [(3, "pass"), (6, "fail")])
def test_sampled_first_tokens_may_differ_as_often_as_in_sound_engines(wrong, status):
    load = [*same(8 - wrong), *(served(20 + number, first=(1, 2)) for number in range(wrong))]
    assert first(load, sampled=True).status == status


def test_a_large_load_can_be_judged():
    load = [*same(4990), *(served(9000 + number, first=(1, 2)) for number in range(10))]
    assert first(load, [LookedUp("r9000", 0.1)]).status == "pass"


def test_too_many_that_differ_are_no_near_ties():
    load = [*same(1), *(served(20 + number, first=(1, 2)) for number in range(9))]
    assert "too many for near-ties" in first(load, [LookedUp("r20", 0.1)]).evidence


class Telling:
    """An engine that gives these log-probabilities, or fails."""

    name, served = "p", 0

    def __init__(self, likely):
        self._likely = likely

    async def serve(self, _, leg, **options):
        assert options["output_tokens"] == 1
        self.served += 1
        if self._likely is None:
            raise ValueError("no")
        leg.token_ids, leg.alternatives = [max(self._likely, key=self._likely.get)], [self._likely]


@pytest.mark.parametrize(
    ("likely", "found"),
    [
        ({1: -1.0, 2: -1.25, 3: -4.0}, LookedUp("r9", 0.25)),
        ({5: -1.0, 2: -1.25, 3: -4.0}, LookedUp("r9", 3.0, True)),
        (None, LookedUp("r9", None)),
    ],
)
def test_a_request_is_looked_up_by_serving_it_again(likely, found):
    requests = {"r9": Request("r9", [1, 2], 4, 0, 0.0, "")}
    looking = look_up(Telling(likely), [served(9, first=(1, 2))], requests, 1.0, 1.0)
    assert asyncio.run(looking) == [found]


def test_few_are_looked_up_where_it_would_take_long():
    requests = {f"r{number}": Request(f"r{number}", [1, 2], 4, 0, 0.0, "") for number in range(9)}
    different = [served(number, first=(1, 2)) for number in range(9)]
    engine = Telling({1: -1.0, 2: -1.25})
    asyncio.run(look_up(engine, different, requests, 0.0, 1.0))
    assert engine.served == first_token.LOOKUPS


def counts(**values):
    return {"d": Counters(**({"generated": 16, "prompt_external": 16} | values))}


@pytest.mark.parametrize(
    ("counted", "status"),
    [
        (counts(), "pass"),
        (counts(generated=17, prompt_external=18), "pass"),  # the last tick was counted, too
        (counts(generated=15), "fail"),
        (counts(generated=18), "fail"),
        (counts(prompt_external=12), "fail"),
        (counts(prompt_external=30), "fail"),
    ],
)
def test_tokens_are_as_many_as_the_engine_made(counted, status):
    timelines = [served(0), served(1)]
    assert token_counts.judge(timelines, counted, {"d": Ours(1, 2)}, True).status == status


def test_what_checks_sent_is_counted_but_for_the_last():
    """Two that primed a cache, and a tick."""
    timelines, ours = [served(0), served(1)], {"d": Ours(3, 22)}
    sound = counts(generated=18, prompt_external=36)
    assert token_counts.judge(timelines, sound, ours, True).status == "pass"
    assert token_counts.judge(timelines, counts(generated=17, prompt_external=36), ours, True).status == "fail"
    assert token_counts.judge(timelines, counts(generated=18, prompt_external=30), ours, True).status == "fail"


def test_tokens_of_failed_requests_are_not_counted():
    failed = served()
    failed.error = "it died"
    assert token_counts.judge([failed], counts(), {}, True).status == "n/a"


ALONE = Load(10.0, 0.01, 0.0, 0.0, 1.0)
SOUND = {"d": Treatment((0,), (1,), (1,))}


def test_a_machine_of_the_runs_own_passes():
    assert machine.judge(ALONE, SOUND, 0.25, 0).status == "pass"
    assert machine.judge(None, SOUND, 0.25, 0).status == "not provable"


@pytest.mark.parametrize(
    ("seen", "engines", "told"),
    [
        ({"others": 0.2, "stolen": 0.1}, SOUND, "that is too much"),
        ({"throttled": 0.02}, SOUND, "CPU quota held the run up for 2.0%"),
        ({"gpus": {"3": Gpu(0.5, 1980.0)}}, SOUND, "GPU 3 was slowed by heat for 50.0%"),
        ({"gpus": {"3": Gpu(0.0, 1980.0, ("HwThermalSlowdown",))}}, SOUND, "GPU 3 is slowed: HwThermalSlowdown"),
        ({"gpus": {"3": Gpu(0.0, 1980.0, ("SwPowerCap",), (77,))}}, SOUND, "GPU 3 has other processes: 77"),
        ({}, {"d": Treatment((19,), (1,), (1,))}, "engine d has niceness 19, the client 0"),
        ({}, {"d": Treatment((0,), (0,), (1,))}, "engine d may use cores [0], and was placed on [1]"),
    ],
)
def test_what_held_a_run_up_is_named(seen, engines, told):
    values = {name: getattr(ALONE, name) for name in Load.__slots__}
    check = machine.judge(Load(**(values | seen)), engines, 0.25, 0)
    assert check.status == "fail"
    assert told in check.evidence


def test_this_process_is_no_other_one():
    began, until = read("cpu", [0]), time.process_time() + 0.3
    while time.process_time() < until:
        sum(range(100_000))
    ended = read("cpu", [0])
    assert sum(ended.own.values()) - sum(began.own.values()) > 0.25
    assert between(began, ended, "cpu", [0]).seconds >= 0.25
    assert Process.of(psutil.Process()) in ended.own


def test_time_of_others_is_what_the_run_did_not_spend():
    own = Process(1, 0.0)
    began = read("cpu", [0]).__class__(0.0, 5.0, 0.0, {own: 1.0}, 0.0)
    ended = began.__class__(10.0, 14.0, 1.0, {own: 5.0}, 0.5)
    load = between(began, ended, "cpu", [0])
    assert (load.others, load.stolen, load.throttled) == (0.4, 0.1, 0.05)


LIKELY = {token: -1.0 - 0.1 * token for token in range(40)}


def moved(by):
    return {token: value + by for token, value in LIKELY.items()}


def test_a_distance_is_the_root_mean_square_over_the_likeliest():
    assert kv_probe.distance(LIKELY, LIKELY) == 0
    assert kv_probe.distance(LIKELY, moved(0.5)) == pytest.approx(0.5)
    assert kv_probe.distance(LIKELY, {99: -3.0}) > 0.5  # none of them is listed


def found(distance=0.0, ways=0.0, another=1.0, decode="d"):
    return Probe("p", decode, 4, distance, Yardstick(ways, another))


@pytest.mark.parametrize(
    ("probe", "device", "status"),
    [
        (found(), "cpu", "pass"),
        (found(0.02, ways=0.02), "cpu", "pass"),
        (found(0.004), "cpu", "pass"),
        (found(0.02), "cpu", "fail"),
        (found(0.02), "cuda", "pass"),
        (found(0.04), "cuda", "fail"),
        (found(0.04, ways=0.02), "cpu", "fail"),
        (Probe("p", "d", error="it died"), "cpu", "fail"),
        (found(another=0.001), "cpu", "not provable"),
        (found(2.0, another=0.001), "cpu", "fail"),
        (found(float("nan")), "cpu", "fail"),
    ],
)
def test_kv_is_judged_by_what_sound_engines_differ_by(probe, device, status):
    assert kv_probe.judge([probe], "bfloat16", device).status == status


def test_the_worst_pair_decides_and_no_probe_is_no_proof():
    assert kv_probe.judge([found(), found(0.5, decode="e")], "float32", "cpu").status == "fail"
    assert kv_probe.judge([], "float32", "cpu").status == "n/a"


@pytest.mark.parametrize(
    ("prompt", "most", "tokens"), [(1024, 8192, 1025), (300, 8192, 385), (8190, 8192, 8065), (64, 8192, 129)]
)
def test_what_is_served_alone_is_whole_blocks_and_a_token(prompt, most, tokens):
    first, second = alone(point(chosen(), prompt, 1), 1000, 0, 4, most)
    assert (len(first.prompt), len(second.prompt)) == (tokens, tokens)
    assert first.prompt[-1] == second.prompt[-1]
    assert first.prompt[:-1] != second.prompt[:-1]


def test_where_not_one_block_fits_nothing_is_served_alone():
    assert alone(point(chosen(), 100, 1), 1000, 0, 4, 110) is None


class Few:
    """An engine that gives log-probabilities for all tokens but one, or for none."""

    def __init__(self, name, given):
        self.name, self.role, self._given = name, name, given

    async def serve(self, _, leg, *, output_tokens, **options):
        leg.token_ids, leg.alternatives = list(range(output_tokens)), [LIKELY] * min(self._given, output_tokens)
        leg.handoff = options["handoff"]


class Pair:
    async def hand_over(self, request, prefill, decode, alternatives):
        legs = Leg(prefill.name), Leg(decode.name)
        for engine, leg in zip((prefill, decode), legs, strict=True):
            await engine.serve(request, leg, output_tokens=4, handoff=None, alternatives=alternatives)
        return legs


@pytest.mark.parametrize("given", [0, 3])
def test_an_engine_that_lacks_log_probabilities_fails_in_one_line(given):
    request = Request("r", [1, 2], 4, 0, 0.0, "")
    probing = kv_probe.probe(Pair(), Few("p", 4), Few("d", given), request, Yardstick(0.0, 1.0), 1.0)
    told = kv_probe.judge([asyncio.run(probing)], "float32", "cpu")
    assert told.status == "fail"
    assert f"d gave 4 tokens, {given} with log-probabilities, for 4" in told.evidence
