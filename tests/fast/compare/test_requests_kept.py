"""requests.jsonl is what the run wrote, and what both runs of a pair were sent is the same: else no figure counts."""

from dataclasses import replace

import pytest

from context_research.compare import verdict
from context_research.compare.comparison import load, of_ab, of_runs
from context_research.errors import UsageProblem
from context_research.records import sent
from context_research.records.files import RunFiles
from context_research.report.words import headline
from tests.support import commands, made_runs
from tests.support.timelines import timeline


def refused(told, function, *arguments):
    with pytest.raises(UsageProblem) as problem:
        function(*arguments)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


# What the run wrote


def _cut_after(path, lines):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def _reordered(path):
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*others, first]))


CHANGES = {
    "cut at a line's end": lambda path: _cut_after(path, 2),
    "cut within a line": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_text(""),
    "a digit": lambda path: path.write_text(path.read_text().replace("0.0", "0.1", 1)),
    "other order": _reordered,
    "a line more": lambda path: path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_requests_that_are_not_what_the_run_wrote_are_refused(tmp_path, change):
    files = made_runs.run(tmp_path)
    CHANGES[change](files.requests)
    refused(f"{files.requests} was cut or changed after the run: ", load, files)


def test_requests_that_are_gone_are_refused(tmp_path):
    files = made_runs.run(tmp_path)
    files.requests.unlink()
    refused(f"cannot read {files.requests}: No such file", load, files)


def test_a_summary_of_another_run_is_refused(tmp_path):
    files, other = made_runs.run(tmp_path, "r1"), made_runs.run(tmp_path, "r2")
    files.summary("e0").write_bytes(other.summary("e0").read_bytes())
    refused("is of run r2, and", load, files)


def test_a_hash_that_was_taken_out_is_missed(tmp_path):
    files = made_runs.run(tmp_path)
    made_runs.edit(files.summary("e0"), "summary", requests_file=None)
    refused(f"{files.summary('e0')} was changed after the run: it lacks requests_file", load, files)


def test_a_run_of_before_requests_were_hashed_is_read(tmp_path):
    files = made_runs.unhashed(made_runs.run(tmp_path))
    _cut_after(files.requests, 2)
    assert load(files).summary.requests_file is None


# What both were sent


OTHERWISE = {
    "prompts": lambda line: line | {"prompt_sha256": "0" * 64},
    "one prompt": lambda line: line | ({"prompt_sha256": "0" * 64} if line["request"].endswith("-1") else {}),
    "lengths": lambda line: line | {"output_tokens_asked": line["output_tokens_asked"] + 1},
    "order": lambda line: apart(line) | {"scheduled": -line["scheduled"]},
}


def apart(line):
    """Each request with a prompt of its own."""
    return line | {"prompt_sha256": line["request"]}


@pytest.mark.parametrize("hashed", [True, False], ids=["by its record", "by its requests"])
@pytest.mark.parametrize("how", OTHERWISE)
def test_runs_that_were_sent_different_requests_are_refused(tmp_path, how, hashed):
    first, changed = (made_runs.run(tmp_path, name) for name in ("r1", "r2"))
    if how == "order":
        made_runs.sent_otherwise(first, apart)
    made_runs.sent_otherwise(changed, OTHERWISE[how])
    if not hashed:
        made_runs.unhashed(changed)
    one, other = (load(RunFiles(tmp_path, name)) for name in ("r1", "r2"))
    refused("r1 and r2 were sent different requests in case p64-c1", of_runs, one, other)


def test_an_ab_whose_arms_were_sent_different_requests_has_no_verdict(tmp_path):
    files = made_runs.A_B(tmp_path)
    made_runs.sent_otherwise(RunFiles(tmp_path, "ab1-04-candidate"))
    refused("were sent different requests in case p64-c1", of_ab, files)


def test_what_decides_the_requests_may_differ_if_it_was_allowed_to(tmp_path):
    one = made_runs.loaded(tmp_path, "r1")
    two = made_runs.run(tmp_path, "r2", changes={"settings.workload.output_tokens": 5})
    made_runs.sent_otherwise(two, OTHERWISE["lengths"])
    assert of_runs(one, load(two), ["workload.output_tokens"]).unproven == ()


def test_runs_whose_requests_are_gone_are_compared_and_named(tmp_path):
    for name in ("r1", "r2"):
        made_runs.unhashed(made_runs.run(tmp_path, name)).requests.unlink()
    one, other = (load(RunFiles(tmp_path, name)) for name in ("r1", "r2"))
    assert of_runs(one, other).unproven == ("r1", "r2")


def test_moments_and_ids_are_no_part_of_what_was_sent():
    one = [timeline([1.0], scheduled=0.0, request=f"a-{number}") for number in range(12)]
    other = [timeline([9.0], scheduled=5.0, request=f"b-{number}") for number in reversed(range(12))]
    assert sent.digest(one) == sent.digest(other) is not None


def test_of_requests_due_together_the_number_decides():
    """As many as are in flight are due at the start, and they end in any order."""
    one = [timeline([1.0], scheduled=0.0, request=f"a-{number}", prompt_sha256=str(number)) for number in range(12)]
    assert sent.digest(one) == sent.digest(one[::-1])
    apart = [timeline([1.0], scheduled=0.1 * n, request=f"a-{n}", prompt_sha256=str(n)) for n in range(12)]
    assert sent.digest(one) == sent.digest(apart)


def test_the_warm_up_is_no_part_of_it():
    measured = timeline([1.0], scheduled=0.0)
    assert sent.digest([measured]) == sent.digest([measured, timeline([1.0], scheduled=0.0, repeat=-1)])
    assert sent.digest([]) is None


@pytest.mark.parametrize("command", [("report", "r1"), ("verdict", "r1", "r2"), ("verdict", "r2"), ("calibrate", "r1")])
def test_every_command_that_reads_a_run_refuses_one_whose_requests_were_cut(tmp_path, command):
    for name in ("r1", "r2"):
        made_runs.run(tmp_path, name, serving={"r1": "aggregated", "r2": "disaggregated"}[name])
    _cut_after(RunFiles(tmp_path, "r1").requests, 2)
    options = ["--write", tmp_path / "p.yaml"] if command[0] == "calibrate" else []
    told = f"{RunFiles(tmp_path, 'r1').requests} was cut or changed after the run"
    commands.refused(commands.run(*command, *options, "--outputs", tmp_path), told)


def test_an_ab_of_which_a_run_was_cut_is_refused(tmp_path):
    made_runs.A_B(tmp_path)
    _cut_after(RunFiles(tmp_path, "ab1-03-baseline").requests, 2)
    for command in ("verdict", "report"):
        commands.refused(commands.run(command, "ab1", "--outputs", tmp_path), "was cut or changed after the run")


def test_the_headline_says_what_is_not_proven(tmp_path):
    for name in ("r1", "r2"):
        made_runs.unhashed(made_runs.run(tmp_path, name)).requests.unlink()
    two = of_runs(*(load(RunFiles(tmp_path, name)) for name in ("r1", "r2")))
    told = "That both were sent the same is NOT PROVABLE: r1, r2 kept no requests"
    assert told in headline(verdict.judge(two))
    assert "NOT PROVABLE" not in headline(verdict.judge(replace(two, unproven=())))


@pytest.mark.parametrize("status", ["running", "interrupted", "error"])
def test_a_run_that_was_ended_may_have_lines_of_a_case_that_is_in_no_summary(tmp_path, status):
    """It was killed between the two: what its summary tells of has to be there."""
    files = made_runs.run(tmp_path, status=status)
    whole = files.requests.read_text()
    files.requests.write_text(whole + whole.splitlines()[-1].replace("p64-c1", "p64-c2") + "\n")
    assert commands.run("report", "r1", "--outputs", tmp_path).exit_code == 0
    files.requests.write_text(whole[:-1])
    commands.refused(commands.run("report", "r1", "--outputs", tmp_path), "was cut or changed after the run")
