"""Open and replayed loads in whole simulated runs: what is sent depends on the seed and the case alone."""

import json
from hashlib import sha256

import pytest
import yaml

from context_research.records.files import RunFiles
from context_research.settings.schema import CONFIGS

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
OPEN = {
    "arrivals": "open",
    "rate": 2.0,
    "cv": 2.0,
    "warmup_s": 2.0,
    "window_s": 10.0,
    "repeats": 2,
    "warmup_requests": 1,
    "classes": {
        "chat": {"share": 4, "prompt": {"low": 16, "high": 64}, "output": {"low": 2, "high": 6}},
        "document": {"prompt": {"p50": 200, "p90": 400, "max": 600}, "output": 2},
    },
}


@pytest.fixture
def run(suite):
    """Runs E0 with a load of its own on simulated engines; the result, and the run's files."""
    smoke = yaml.safe_load((CONFIGS / "experiments" / "e0_smoke.yaml").read_text())

    def run(name, workload, *options, axes=None):
        tree = smoke | {"workload": workload, "axes": axes or {}}
        (suite.path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        result = suite.inside(
            *("--seed=0", "--device-profile=cpu-2core", f"--experiment-config={name}.yaml", f"--run-id={name}"),
            *options,
        )
        return result, RunFiles(suite.path / "outputs", name)

    return run


def sent(files, case):
    """Of one case: (repeat, request) -> the hash of what was sent and when."""
    lines = map(json.loads, files.requests.read_text().splitlines())
    return {(line["repeat"], line["request"]): line["prompt_sha256"] for line in lines if is_of(line, case)}


def is_of(line, case):
    return "prompt_sha256" in line and line["case"] == case


def test_one_seed_sends_the_same_whatever_else_runs(run):
    axes = {"workload.rate": [2.0, 4.0]}
    _, both = run("both", OPEN, axes=axes)
    expected = {case: sent(both, case) for case in ("rate_2.0", "rate_4.0")}
    assert len(expected["rate_2.0"]) > 30
    assert not set(expected["rate_2.0"].values()) & set(expected["rate_4.0"].values())
    _, workers = run("workers", OPEN, "-n", "2", axes=axes)
    assert {case: sent(workers, case) for case in expected} == expected
    _, one = run("one", OPEN, "-k", "rate_4.0", axes=axes)
    assert sent(one, "rate_2.0") == {}
    assert sent(one, "rate_4.0") == expected["rate_4.0"]
    _, split = run("split", OPEN, "--serving=disaggregated", axes=axes)
    for case, hashes in expected.items():
        assert {key: hashes[key] for key in sent(split, case)} == sent(split, case)  # the tail may be shorter
    whole = [
        {case["name"]: case["sent_sha256"] for case in json.loads(files.summary("e0").read_text())["cases"]}
        for files in (both, workers, split)
    ]
    assert whole[0] == whole[1] == whole[2]


def test_a_replayed_trace_says_what_was_taken_of_it_and_how_its_moments_were_spread(run, suite):
    rows = [
        {"timestamp": tick * 3000, "input_length": tokens, "output_length": 2, "hash_ids": [0] * (-(-tokens // 512))}
        for tick in range(6)
        for tokens in (40, 50, 600)
    ]
    (suite.path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    load = {
        "arrivals": "replay",
        "trace": {"file": "trace.jsonl", "longest_prompt": 512},
        "warmup_s": 3.0,
        "repeats": 1,
    }
    result, files = run("replay", load)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "  load: 12 rows of trace.jsonl over 15 s, 6 left out with prompts over 512 tokens; "
            "moments on a grid of 3 s, spread within their tick by the seed"
        ]
    )
    lines = [line for line in map(json.loads, files.requests.read_text().splitlines()) if is_of(line, "load")]
    lines = [line for line in lines if line["repeat"] == 0]
    assert sorted(line["prompt_tokens"] for line in lines) == [40] * 6 + [50] * 6
    start = min(line["scheduled"] for line in lines)
    assert len({round(line["scheduled"] - start, 6) for line in lines}) == 12
    record = json.loads(files.summary("e0").read_text())["cases"][0]
    assert record["arrivals"]["left_out"] == 6
    assert record["arrivals"]["spread_s"] == 3.0
    assert record["arrivals"]["trace_sha256"] == sha256((suite.path / "trace.jsonl").read_bytes()).hexdigest()
    assert "Moments of a trace, spread by the seed within its clock's ticks: **load**: 3 s." in files.report.read_text()


def test_a_malformed_trace_is_one_line_and_nothing_half_written(run, suite):
    (suite.path / "trace.jsonl").write_text('{"at": 0, "prompt_tokens": 5, "output_tokens": 1}\n{"at": 1}\n')
    result, files = run("wrong", {"arrivals": "replay", "trace": {"file": "trace.jsonl"}})
    told = "trace.jsonl:2: without prompt_tokens; a row has at, prompt_tokens, output_tokens"
    result.stderr.fnmatch_lines([f"ERROR: *{told}"])
    assert not files.folder.exists()


def test_a_mean_load_over_the_pool_is_warned_of_and_one_request_over_it_refused(run):
    closed = {"concurrency": [16], "classes": OPEN["classes"], "requests": 8, "repeats": 1, "warmup_requests": 0}
    tokens = 640
    sizes = {"engine.kv_cache_memory_bytes": tokens * 4096, "engine.block_size": 16, "model.max_model_len": 608}
    pool = [f"--set={key}={value}" for key, value in sizes.items()]
    result, _ = run("warned", closed, *pool)
    result.stdout.fnmatch_lines(
        ["  warning: c16: KV cache too small on engine aggregated: 16 × (* of the mean length *"]
    )
    result, files = run("refused", closed | {"classes": {"long": {"prompt": 700}}}, *pool)
    result.stderr.fnmatch_lines(["ERROR: a prompt of 700 + 128 output tokens (class long) is over the 608 that tiny-*"])
    assert not files.folder.exists()
