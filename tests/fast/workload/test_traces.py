"""Traces of others: three formats, slices, ticks; what is wrong in one is told with its line."""

import json
import os
import time
from collections import Counter

import numpy as np
import pytest

from context_research.errors import UsageProblem
from context_research.settings import sources
from context_research.settings.workload import Trace
from context_research.workload import traces
from tests.support.settings import chosen
from tests.support.suite import ROOT

PUBLISHED = ROOT.parent / "shared" / "traces"
if not PUBLISHED.is_dir():
    PUBLISHED = ROOT.parent.parent / "shared" / "traces"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def mooncake(at, prompt, output, blocks=None):
    ids = list(range(-(-prompt // 512) if blocks is None else blocks))
    return json.dumps({"timestamp": at, "input_length": prompt, "output_length": output, "hash_ids": ids})


def ours(at, prompt=10, output=2, **more):
    return json.dumps({"at": at, "prompt_tokens": prompt, "output_tokens": output} | more)


@pytest.fixture
def trace(tmp_path):
    def made(*lines, name="trace"):
        path = tmp_path / name
        path.write_text("\n".join(lines))
        return str(path)

    return made


def refused(call, *arguments):
    with pytest.raises(UsageProblem) as caught:
        call(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mooncake_has_milliseconds(trace):
    rows = traces.read(trace(mooncake(3000, 512, 7), mooncake(4500, 513, 1)))
    assert rows.at.tolist() == [0.0, 1.5]
    assert rows.prompt_tokens.tolist() == [512, 513]
    assert rows.output_tokens.tolist() == [7, 1]
    assert rows.class_names == ("", "")


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_azure_has_dates(trace, zone):
    first, second = f"2023-11-16 23:59:59.5000000{zone},374,44\r", f"2023-11-17 00:00:00.7500000{zone},396,109"
    rows = traces.read(trace(AZURE + first, second))
    assert rows.at.tolist() == [0.0, 1.25]
    assert (rows.prompt_tokens.tolist(), rows.output_tokens.tolist()) == ([374, 396], [44, 109])


def test_ours_may_name_classes(trace):
    rows = traces.read(trace(ours(1.5), "", ours(2, 20, 3, **{"class": "long"}), ""))
    assert rows.at.tolist() == [0.0, 0.5]
    assert rows.class_names == ("", "long")


def test_a_byte_order_mark_is_no_error(tmp_path):
    (tmp_path / "trace").write_bytes(b"\xef\xbb\xbf" + ours(0).encode())
    assert len(traces.read(str(tmp_path / "trace")).at) == 1


def test_unsorted_rows_are_sorted(trace):
    rows = traces.read(trace(ours(5, 50), ours(1, 10), ours(3, 30), ours(1, 11)))
    assert rows.at.tolist() == [0.0, 0.0, 2.0, 4.0]
    assert rows.prompt_tokens.tolist() == [10, 11, 30, 50]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([mooncake(0, 513, 1, blocks=1)], ":1: 513 input tokens are 2 blocks of 512, hash_ids has 1"),
        ([mooncake(0, 512, 1), mooncake(0, 3, 2000, blocks=4)], ":2: 3 input tokens are 1 blocks of 512, hash_ids has"),
        ([mooncake(0, 343, 12035, blocks=24)], "it fits output_length: the two lengths are swapped"),
        ([mooncake(0, 512, 0)], ":1: output_length 0 is no number of tokens from 1"),
        ([mooncake("now", 512, 1)], ":1: timestamp 'now' is no moment"),
        ([mooncake(float("nan"), 512, 1)], ":1: timestamp nan is no moment"),
        (['{"timestamp": 0, "input_length": 1}'], ":1: without output_length; a row has timestamp, input_length, "),
        ([mooncake(0, 512, 1).replace("[0]", "7")], "hash_ids has 7"),
        ([ours(0), "{"], ":2: no JSON: Expecting property name enclosed in double quotes"),
        ([ours(0), "[]"], ":2: no JSON object with at, prompt_tokens, output_tokens"),
        ([ours(0), ours(0, "10")], ":2: prompt_tokens '10' is no number of tokens from 1"),
        ([ours(0, True)], ":1: prompt_tokens True is no number of tokens from 1"),
        ([ours(0, 1 << 40)], f":1: prompt_tokens {1 << 40} is no number of tokens from 1"),
        ([ours(0, 7).replace("7", "7" * 5000)], "no JSON"),
        ([ours(0, 10**100)], ":1: prompt_tokens that is so large is no number of tokens from 1"),
        ([ours(10**400)], ":1: at that is so large is no moment"),
        ([ours(0), "", ours(0, 1, -1)], ":3: output_tokens -1 is no number of tokens from 1"),
        ([ours(0, clas="x")], ":1: unknown key 'clas'; a row has at, prompt_tokens, output_tokens, class"),
        ([ours(0, **{"class": "A b"})], ":1: class 'A b': a name of small letters, digits and _ is asked for"),
        ([AZURE + "2023-11-16 18:15:46,374"], ":2: 2 fields, the header has 3"),
        ([AZURE + "2023-11-16 18:15:46,374,x"], ":2: GeneratedTokens 'x' is no number of tokens from 1"),
        ([AZURE + "yesterday,374,1"], ":2: TIMESTAMP 'yesterday' is no date and time"),
        (["TIMESTAMP,ContextTokens", "2023-11-16,1"], ":1: no column GeneratedTokens; the columns are TIMESTAMP, "),
        ([AZURE], "has no rows"),
        (["time,in,out"], ":1: no trace that is known here begins so"),
        (["\x00\x01"], ":1: no trace that is known here begins so"),
        ([""], "is empty"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_file_and_line(trace, lines, told):
    file = trace(*lines)
    line = refused(traces.read, file)
    assert told in line
    assert file in line


def test_a_format_that_is_given_is_not_guessed(trace):
    assert ":1: without at; a row has at, " in refused(traces.read, trace(mooncake(0, 1, 1)), "rows")


def test_what_can_not_be_read_is_told(tmp_path):
    assert "cannot read trace" in refused(traces.read, str(tmp_path / "none.jsonl"))
    assert "cannot read trace" in refused(traces.read, str(tmp_path))
    assert "cannot read trace" in refused(traces.read, "~nobody-of-this-name/x")
    assert "cannot read trace" in refused(traces.read, "a\0b")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{")
    assert "cannot read trace" in refused(traces.read, str(tmp_path / "bytes"))


def test_a_file_that_changed_is_read_again(trace):
    file = trace(ours(0))
    first = traces.read(file)
    assert traces.read(file) is first
    trace(ours(0), ours(1))
    again = traces.read(file)
    assert len(again.at) == 2
    assert again.sha256 != first.sha256


TEN = [ours(float(second), 10 * (second + 1)) for second in range(10)]


@pytest.mark.parametrize(
    ("asked", "prompts", "at"),
    [
        ({}, range(10, 101, 10), range(10)),
        ({"start_s": 2.0, "seconds": 3.0}, (30, 40, 50), (0, 1, 2)),
        ({"start_s": 7.5}, (90, 100), (0.5, 1.5)),
        ({"rows": (2, 5)}, (30, 40, 50), (0, 1, 2)),
        ({"rows": (8, 50)}, (90, 100), (0, 1)),
        ({"seconds": 3.0, "time_scale": 0.5}, (10, 20, 30), (0, 0.5, 1)),
        ({"seconds": 3.0, "longest_prompt": 20}, (10, 20), (0, 1)),
    ],
)
def test_a_slice_begins_at_its_own_start(trace, asked, prompts, at):
    rows = traces.replayed(Trace(file=trace(*TEN), **asked), rng())
    assert rows.prompt_tokens.tolist() == list(prompts)
    assert rows.at.tolist() == list(at)
    assert rows.left_out == (1 if "longest_prompt" in asked else 0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"start_s": 20.0}, "no row lies in the slice of 20 s to inf s; it has 10, over 9.000 s"),
        ({"start_s": 1.25, "seconds": 0.5}, "no row lies in the slice of 1.25 s to 1.75 s"),
        ({"rows": (10, 12)}, "no row lies in the slice of rows 10 to 12; it has 10"),
        ({"longest_prompt": 9}, "every prompt of the slice is over longest_prompt, 9"),
    ],
)
def test_a_slice_without_rows_is_refused(trace, asked, told):
    assert told in refused(traces.replayed, Trace(file=trace(*TEN), **asked), None)


def ticked(ticks=200, tick=3.0, each=5):
    """On a grid, with a clock that drifts by a few ms as Mooncake's does."""
    jitter = rng(1).integers(-1, 2, size=ticks).cumsum() % 4
    return [
        ours(number * tick + jitter[number] / 1000, number * each + one + 1)
        for number in range(ticks)
        for one in range(each)
        if number % 7 != 3
    ]


def test_moments_on_a_grid_are_spread_within_their_tick_and_keep_their_order(trace):
    file = trace(*ticked())
    exact = traces.replayed(Trace(file=file, ticks="exact"), rng())
    spread = traces.replayed(Trace(file=file), rng())
    assert spread.tick == pytest.approx(3.0, abs=0.002)
    assert spread.prompt_tokens.tolist() == exact.prompt_tokens.tolist()
    late = spread.at - exact.at
    assert (np.diff(spread.at) >= 0).all()
    assert late.min() >= -0.01
    assert late.max() <= 3.01
    assert np.histogram(late, 3, (0, 3))[0] == pytest.approx(late.size / 3, rel=0.15)
    assert len(np.unique(spread.at)) == spread.at.size
    assert spread.at.tolist() == traces.replayed(Trace(file=file), rng()).at.tolist()
    assert spread.at.tolist() != traces.replayed(Trace(file=file), rng(1)).at.tolist()


def test_a_few_rows_beside_the_grid_do_not_hide_it(trace):
    rows = traces.read(trace(*ticked(), ours(100.7), ours(211.1)))
    assert rows.tick == pytest.approx(3.0, abs=0.002)


def test_moments_on_no_grid_stay_as_they_are(trace):
    at = np.round(np.cumsum(rng().exponential(0.05, 2000)), 3)  # in ms, some of them shared
    assert len(np.unique(at)) < at.size
    rows = traces.replayed(Trace(file=trace(*map(ours, at.tolist()))), rng())
    assert rows.tick is None
    assert rows.at == pytest.approx(at - at[0])


def test_a_regular_beat_is_no_grid_that_hides_something(trace):
    assert traces.read(trace(*TEN)).tick is None


def test_relative_paths_start_at_the_projects_root_in_yaml_and_here_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "t.jsonl").write_text(ours(0))
    text = (
        "experiment: e0\nmodel: {name: tiny-qwen3}\nworkload:\n  classes: {chat: {rows: t.jsonl}}\n  concurrency: [1]\n"
        "axes: {workload.classes.chat.rows: [t.jsonl, u.jsonl]}\n"
    )
    (tmp_path / "e.yaml").write_text(text)
    given = [sources.Layer("test", {"experiment": str(tmp_path / "e.yaml")})]
    found = sources.resolve("e0", given, "cpu", "a test", root=tmp_path).settings
    assert found.workload.classes["chat"].rows == str(tmp_path / "t.jsonl")
    assert found.axes["workload.classes.chat.rows"] == (str(tmp_path / "t.jsonl"), str(tmp_path / "u.jsonl"))
    monkeypatch.setenv("HOME", str(tmp_path))
    layer = sources.parse_set("command line", ["workload.trace.file=~/t.jsonl", "workload.classes.chat.rows=u.jsonl"])
    assert layer.values == {
        "workload.trace.file": str(tmp_path / "t.jsonl"),
        "workload.classes.chat.rows": "u.jsonl",
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rows": [0, 5], "seconds": 3.0}, "a slice is given by its rows, or by start_s and seconds, not by both"),
        ({"rows": [5, 5]}, "rows are [first, end], and end is over first"),
    ],
)
def test_slices_that_contradict_themselves_are_refused(given, told):
    values = {f"workload__trace__{key}": value for key, value in ({"file": "t"} | given).items()}
    line = refused(
        lambda: chosen(workload__arrivals="replay", workload__prompt_lengths=[], workload__concurrency=[], **values)
    )
    assert told in line


published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the two published traces aren't here")


@published
def test_mooncakes_conversation_is_read_in_a_second():
    began = time.process_time()
    rows = traces.read(os.fspath(PUBLISHED / "mooncake_conversation.jsonl"))
    assert time.process_time() - began < 1
    assert len(rows.at) == 12_031
    assert rows.tick == pytest.approx(3.0, abs=1e-3)
    assert rows.prompt_tokens.mean() == pytest.approx(12_035, abs=1)
    assert (rows.prompt_tokens > 32 * 1024).sum() == 828
    replayed = traces.replayed(Trace(file=os.fspath(PUBLISHED / "mooncake_conversation.jsonl")), rng())
    gaps = np.diff(replayed.at)
    assert 0.8 < gaps.std() / gaps.mean() < 1.3  # in its ticks it is 3
    assert Counter(replayed.class_names) == {"": 12_031}


@published
def test_azures_conversation_is_read():
    rows = traces.read(os.fspath(PUBLISHED / "azure_2023_conv.csv"))
    assert len(rows.at) == 19_366
    assert rows.tick is None
    gaps = np.diff(rows.at)
    assert 1 / gaps.mean() == pytest.approx(5.5, abs=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.01)
