"""What a case's requests are before prompts are made of them: moments, phases, classes, lengths."""

import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from context_research.errors import UsageProblem
from context_research.models.capacity import Load
from context_research.settings.workload import Workload
from context_research.workload import load
from context_research.workload.case import cases
from context_research.workload.prompts import requests
from tests.support.settings import chosen

CLASSES = {
    "chat": {"share": 9, "prompt": {"low": 10, "high": 20}, "output": 4},
    "document": {"share": 1, "prompt": 1000},
}


def case_of(**workload):
    base = {"prompt_lengths": [], "concurrency": [], "warmup_s": 10.0, "output_tokens": 8}
    values = {f"workload__{key}": value for key, value in (base | workload).items()}
    [case] = cases(chosen(**values))
    return case


def opened(**more):
    return case_of(**({"arrivals": "open", "rate": 20.0, "window_s": 100.0, "prompt_lengths": [64]} | more))


def refused(call, *arguments):
    with pytest.raises(UsageProblem) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def replayed(tmp_path):
    def made(rows=100, name=lambda _: "", **more):
        lines = [
            {"at": float(at), "prompt_tokens": 10 + at, "output_tokens": 1 + at}
            | ({"class": name(at)} if name(at) else {})
            for at in range(rows)
        ]
        path = tmp_path / "trace.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        trace = {"file": str(path)} | more.pop("trace", {})
        return case_of(**({"arrivals": "replay", "trace": trace} | more))

    return made


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gaps_are_of_the_gamma_distribution_asked_for(cv):
    given = {"prompt_lengths": (1,), "arrivals": "open", "rate": 50.0, "cv": cv, "warmup_s": 0.0, "window_s": 1000.0}
    moments = load.arrivals(Workload(**given), np.random.default_rng(1))
    gaps = np.diff(np.concatenate([[0.0], moments]))
    assert gaps.size == pytest.approx(100_000, rel=0.02)
    assert 1 / gaps.mean() == pytest.approx(50, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02)
    wanted = stats.gamma(cv**-2, scale=cv**2 / 50)
    # A microsecond: what is shorter is lost in the moments' own precision. At CV 3 that is a quarter of the gaps.
    short = wanted.cdf(1e-6)
    assert (gaps < 1e-6).mean() == pytest.approx(short, abs=0.005)
    assert stats.kstest(gaps[gaps >= 1e-6], lambda gap: (wanted.cdf(gap) - short) / (1 - short)).pvalue > 0.01


def test_how_many_arrive_varies_as_it_does_in_a_poisson_process():
    """Gaps that are rescaled to a fixed count over a fixed time would give the same number each time."""
    case = opened(rate=1.0)
    counts = [sum(each.phase == "measured" for each in load.planned(case, repeat)) for repeat in range(300)]
    assert np.mean(counts) == pytest.approx(100, rel=0.02)
    assert np.std(counts) == pytest.approx(10, rel=0.2)  # the square root of 100 arrivals


def test_a_timed_load_has_a_ramp_a_window_and_a_tail():
    batch = load.planned(opened(), 0)
    due = [each.due for each in batch]
    assert due == sorted(due)
    assert list(dict.fromkeys(each.phase for each in batch)) == ["ramp", "measured", "tail"]
    assert all((each.phase == "ramp") == (each.due < 10) for each in batch)
    assert all((each.phase == "tail") == (each.due > 110) for each in batch)
    assert due[-1] > 200
    assert load.window(opened().settings.workload, batch) == (10.0, 110.0)


def test_the_warm_up_has_no_moments():
    assert {(each.phase, each.due) for each in load.planned(opened(), None)} == {("warmup", None)}


def test_repeats_have_moments_and_lengths_of_their_own():
    case = opened(prompt_lengths=[], classes=CLASSES)
    first, second = load.planned(case, 0), load.planned(case, 1)
    assert first == load.planned(case, 0)
    assert not {each.due for each in first} & {each.due for each in second}


def test_engines_do_not_change_a_load():
    values = {f"workload__{key}": value for key, value in {"arrivals": "open", "rate": 2.0, "window_s": 9.0}.items()}
    values |= {"workload__prompt_lengths": [64], "workload__concurrency": []}
    [plain] = cases(chosen(**values))
    [split] = cases(chosen("disaggregated", **values))
    assert load.planned(plain, 0) == load.planned(split, 0)


def test_a_window_without_requests_is_refused():
    told = refused(load.planned, opened(rate=0.001, window_s=1.0), 0)
    assert "no request is due in the measured window, 10 s to 11 s" in told


def test_classes_have_their_shares_and_lengths():
    batch = load.planned(opened(prompt_lengths=[], classes=CLASSES, window_s=1000.0), 0)
    counts = Counter(each.class_name for each in batch)
    assert counts["document"] / len(batch) == pytest.approx(0.1, abs=0.005)
    chats = [each for each in batch if each.class_name == "chat"]
    assert {each.output_tokens for each in chats} == {4}
    assert {each.prompt_tokens for each in chats} == set(range(10, 21))
    documents = {(each.prompt_tokens, each.output_tokens) for each in batch if each.class_name == "document"}
    assert documents == {(1000, 8)}  # without an output of its own: workload.output_tokens


def test_a_class_may_have_the_lengths_of_a_files_rows(replayed):
    file = replayed(5).settings.workload.trace.file
    batch = load.planned(opened(prompt_lengths=[], classes={"rows": {"rows": file}}), 0)
    pairs = Counter((each.prompt_tokens, each.output_tokens) for each in batch)
    assert set(pairs) == {(10 + at, 1 + at) for at in range(5)}
    assert min(pairs.values()) > len(batch) / 10


def test_lengths_vary_in_a_closed_loop_too():
    batch = load.planned(case_of(prompt_lengths=[1000], concurrency=[4], length_spread=0.2, requests=200), 0)
    assert [each.phase for each in batch] == ["ramp"] * 4 + ["measured"] * 200 + ["tail"] * 32
    assert {each.due for each in batch} == {None}
    assert 800 <= min(each.prompt_tokens for each in batch) < 820
    assert 1180 < max(each.prompt_tokens for each in batch) <= 1200
    assert {each.output_tokens for each in batch} == {6, 7, 8, 9, 10}


def test_a_trace_is_replayed_row_by_row(replayed):
    batch = load.planned(replayed(), 0)
    assert [(each.due, each.prompt_tokens, each.output_tokens) for each in batch] == [
        (float(at), 10 + at, 1 + at) for at in range(100)
    ]
    assert Counter(each.phase for each in batch) == {"ramp": 10, "measured": 90}
    batch = load.planned(replayed(window_s=50.0), 0)
    assert Counter(each.phase for each in batch) == {"ramp": 10, "measured": 51, "tail": 39}


def test_a_replays_warm_up_is_some_of_its_rows(replayed):
    batch = load.planned(replayed(warmup_requests=50), None)
    assert len({each.prompt_tokens for each in batch}) > 10
    assert all(each.output_tokens == each.prompt_tokens - 9 for each in batch)


def test_a_traces_own_classes_are_the_loads(replayed):
    case = replayed(name=lambda at: "even" if at % 2 == 0 else "", classes={"even": {"slo": {"ttft": 1.0}}})
    assert Counter(each.class_name for each in load.planned(case, 0)) == {"even": 50, "": 50}
    assert "classes.odd: no replayed row of " in refused(load.planned, replayed(classes={"odd": {}}), 0)


def test_a_trace_that_is_shorter_than_its_warm_up_is_refused(replayed):
    assert "no request is due in the measured window" in refused(load.planned, replayed(5), 0)


def test_a_window_that_outlasts_the_slice_is_refused(replayed):
    assert len(load.planned(replayed(window_s=89.0), 0)) == 100
    told = refused(load.planned, replayed(window_s=100.0), 0)
    assert told.startswith("the window ends 110 s after the start, the slice of ")
    assert told.endswith("trace.jsonl after 99 s: a shorter workload.window_s, or a longer slice")
    half = {"time_scale": 0.5, "seconds": 60.0}
    assert "after 30 s" in refused(load.planned, replayed(window_s=25.0, trace=half), 0)


@pytest.mark.parametrize("given", [{"rate": 1e300}, {"window_s": 1e300}, {"requests": 10**400}])
def test_more_requests_than_memory_could_hold_are_refused_and_not_drawn(given):
    assert refused(load.planned, opened(**given), 0).startswith("over 10,000,000 requests in a pass: a lower ")


def test_what_is_taken_of_a_trace_is_told(replayed):
    case = replayed(trace={"longest_prompt": 20})
    told = load.described(case.settings.workload)
    assert told.endswith("trace.jsonl over 10 s, 89 left out with prompts over 20 tokens")
    assert told.startswith("11 rows of ")
    assert load.taken(case).left_out == 89
    assert load.described(opened().settings.workload) is None
    assert load.taken(opened()) is None


def test_the_typical_request_has_the_median_prompt(replayed):
    assert load.typical(replayed(warmup_s=0.0)).prompt_tokens == 10 + 49


def test_what_is_longest_is_known_by_itself_and_by_whose_it_is(replayed):
    found = load.loads(opened(prompt_lengths=[], classes=CLASSES))
    assert found == [Load(1000, 8, 1, "class document")]
    [longest] = load.loads(replayed())
    assert (longest.prompt_tokens, longest.output_tokens, longest.concurrency) == (109, 100, 1)
    assert longest.of.startswith("trace ")


def test_a_closed_loop_of_varying_lengths_has_at_least_so_many_of_the_shortest():
    case = case_of(concurrency=[4], classes=CLASSES, requests=100)
    assert Load(10, 4, 4, "the shortest") in load.loads(case)
    mean = load.mean_load(case)
    assert 10 < mean.prompt_tokens < 300
    assert mean.concurrency == 4


@pytest.mark.parametrize("case", [opened(), case_of(prompt_lengths=[64], concurrency=[4])])
def test_equal_requests_and_open_loads_have_no_mean_to_warn_of(case):
    assert load.mean_load(case) is None


def test_requests_are_made_of_what_was_planned():
    case = opened(prompt_lengths=[], classes=CLASSES, window_s=5.0)
    made, plan = requests(case, 16384, 0), load.planned(case, 0)
    fields = ("output_tokens", "phase", "due", "class_name")
    assert [[getattr(each, name) for name in fields] for each in made] == [
        [getattr(each, name) for name in fields] for each in plan
    ]
    assert [len(each.prompt) for each in made] == [each.prompt_tokens for each in plan]
    assert len({each.sha256 for each in made}) == len(made)


def test_the_hash_covers_when_a_request_is_due(monkeypatch):
    case = opened(window_s=5.0)
    before = requests(case, 16384, 0)
    real = load.arrivals
    monkeypatch.setattr(load, "arrivals", lambda workload, rng: real(workload, rng) + 1e-6)
    after = requests(case, 16384, 0)
    assert [each.prompt for each in before] == [each.prompt for each in after]
    assert not {each.sha256 for each in before} & {each.sha256 for each in after}
