"""Percentiles that an A/B's sessions can't give: refused when it is planned, with the option that gives them."""

import re
import shlex

import pytest

from context_research.compare.ab import samples
from context_research.errors import UsageProblem
from context_research.measure.metrics import METRICS, Repeat, samples_needed
from tests.support.made_sessions import plan, two
from tests.support.timelines import timeline

ONE = ("--prompt-lengths=64", "--concurrency=1")
CLASSES = (
    "--set=workload.classes={chat: {share: 3, prompt: 16}, document: {share: 1, prompt: 64}}",
    "--set=workload.prompt_lengths=[]",
)
OPEN = (
    *CLASSES,
    "--set=workload.arrivals=open",
    "--set=workload.concurrency=[]",
    "--set=workload.rate=2",
    "--set=workload.window_s=20",
)


def asked(primary, *options, pairs=6, repeats=1):
    return plan(primary=[primary], pytest_options=options, pairs=pairs, repeats=repeats)


@pytest.mark.parametrize(
    ("primary", "options", "told"),
    [
        ("ttft.p90", ONE, "a session has 17 samples of it in case p64-c1, and a p90 takes 51; -- --requests=51 "),
        ("ttft", (*ONE, "--requests=5"), "has 5 samples of it in case p64-c1, and a p50 takes 8; -- --requests=8"),
        ("e2e.p99", ONE, "has 17 samples of it in case p64-c1, and a p99 takes 528; -- --requests=528"),
        ("itl.p99", (*ONE, "--output-tokens=3"), "has 34 samples of it .* a p99 takes 528; -- --requests=264"),
        ("stall.p90", (*ONE, "--output-tokens=1"), "has 0 samples .* there will be none, however many requests are"),
        ("request_rate.p50", ONE, "has 1 samples of it in case p64-c1, and a p50 takes 8; --repeats 8"),
        ("chat.ttft.p90", CLASSES, r"has \d+ samples of it in case c1, and a p90 takes 51; -- --requests=\d+"),
        ("ttft.p90", OPEN, r"has \d+ samples of it in case load, and a p90 takes 51; -- --set=workload.window_s=\d+"),
        ("document.ttft.p90", OPEN, r"a p90 takes 51; -- --set=workload.window_s=\d+"),
    ],
)
def test_what_the_samples_cannot_give_is_refused_with_what_would(primary, options, told):
    with pytest.raises(UsageProblem, match=f"^--primary {primary}: .*{told}") as refused:
        asked(primary, *options)
    assert "\n" not in str(refused.value)
    cure = re.search(r"; (-- )?(--.*) gives them", str(refused.value))
    if cure and cure[1]:  # what it says does, for every case and seed
        assert asked(primary, *options, *shlex.split(cure[2]))
    elif cure:
        assert asked(primary, *options, repeats=int(cure[2].split()[1]))


@pytest.mark.parametrize(
    ("primary", "options", "repeats"),
    [
        ("ttft.p90", ONE, 3),  # 17 × 3 = 51
        ("itl.p99", (*ONE, "--output-tokens=33"), 1),  # 17 × 32 = 544
        ("goodput", ONE, 1),
        ("ttft.mean", (*ONE, "--requests=1"), 1),
        ("a_plugins.p99", ONE, 1),
        ("handoff.p90", (*ONE, "--requests=51"), 1),
    ],
)
def test_what_they_can_is_planned(primary, options, repeats):
    assert asked(primary, *options, repeats=repeats)


def test_as_many_requests_are_measured_as_are_in_flight():
    assert asked("ttft.p90", "--prompt-lengths=64", "--concurrency=64")


def test_every_arm_is_looked_at():
    arms = {"arms": two("aggregated --requests=5"), "allow_different": ("workload.requests",)}
    with pytest.raises(UsageProblem, match="--primary ttft: a session has 5 samples"):
        plan(**arms)


def test_where_pytest_chooses_among_the_cases_one_that_has_enough_will_do():
    options = ("--prompt-lengths=64", "--concurrency=1,64")
    with pytest.raises(UsageProblem, match=r"--primary ttft.p90: a session has 17 samples of it in case p64-c1"):
        asked("ttft.p90", *options)
    assert asked("ttft.p90", *options, "-k", "c64")
    with pytest.raises(UsageProblem, match=r"--primary ttft.p99: a session has 64 samples of it in case p64-c64"):
        asked("ttft.p99", *options, "-k", "c64")


def test_every_pair_up_to_the_first_look_counts():
    """Classes are drawn: some seed has fewest requests of one."""
    [case] = samples.cases(plan(pytest_options=(*OPEN, "--set=workload.window_s=60")).settings_of("baseline"))
    counts = [samples._Figure.of("document.ttft")._count(case, seed, 1) for seed in range(5, 17)]
    assert samples._Figure.of("document.ttft").fewest(case, range(5, 17), 1) == min(counts) < max(counts)


def test_a_replayed_trace_is_counted_in_its_window(tmp_path):
    lines = (
        f'{{"timestamp": {1000 * at}, "input_length": 16, "output_length": 4, "hash_ids": [1]}}\n' for at in range(40)
    )
    (tmp_path / "trace.jsonl").write_text("".join(lines))
    options = (
        "--set=workload.trace.file=trace.jsonl",
        "--set=workload.arrivals=replay",
        "--set=workload.prompt_lengths=[]",
        "--set=workload.concurrency=[]",
        "--set=workload.warmup_s=10",
        "--set=workload.trace.ticks=exact",
    )
    with pytest.raises(UsageProblem, match="has 30 samples of it in case load, and a p90 takes 51; --repeats 2 gives"):
        asked("ttft.p90", *options)
    assert asked("ttft.p90", *options, repeats=2)


ANYWHERE = [each for each in METRICS if not each.name.startswith(("handoff", "energy", "goodput", "attainment"))]
"""Those that need no handoff, no GPU, no SLO."""


@pytest.mark.parametrize("metric", ANYWHERE, ids=lambda metric: metric.name)
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_metrics_have_as_many_samples_as_they_say(metric, tokens):
    served = [timeline([0.1 * at for at in range(1, tokens + 1)], request=f"r{number}") for number in range(3)]
    repeat = Repeat.of(served, served)
    said = 1 if metric.per_request is None else 3 * metric.per_request(tokens)
    assert len(list(metric.samples(repeat))) == said


def test_the_number_needed_is_the_one_that_summaries_take():
    assert (samples_needed(50), samples_needed(90), samples_needed(99)) == (8, 51, 528)
