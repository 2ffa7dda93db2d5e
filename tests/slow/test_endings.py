"""However a run ends, its record says so, its finished cases are kept, and nothing is left running."""

import os
import shutil
import signal
import subprocess

import psutil
import pytest

from tests.support.artifacts import metadata, requests, summary
from tests.support.processes import ended, wait_for
from tests.support.suite import ROOT, SMALL

LONG = ("--seed=0", *SMALL, "--concurrency=1,2,3", "--repeats=2", "--requests=3")


def finished_cases(suite):
    return any(summary(run)["cases"] for run in suite.runs if (run / "e0_summary.json").exists())


def engines_of(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "EngineCore" in child.name()]


@pytest.fixture
def running(suite, monkeypatch):
    """Runs in processes of their own, their first case finished and the second, endless but for a signal, under way."""
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    held = suite.path / "held"
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        "import pathlib, pytest, time\n"
        "@pytest.fixture(autouse=True)\n"
        "def hold(concurrency):\n"
        "    if concurrency > 1:\n"
        f"        pathlib.Path({str(held)!r}).touch()\n"
        "        for _ in range(3000):\n"  # as a case waits: a signal just before a sleep would wait for its end
        "            time.sleep(0.1)\n"
    )
    processes = []

    def run(*options):
        processes.append(process := suite.popen(*LONG, *options))
        wait_for(lambda: process.poll() is not None or held.exists(), "the second case")
        assert finished_cases(suite)
        assert process.poll() is None
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


def kept(suite, process, status):
    """What a signal must leave: a record that says so, and the finished case."""
    recorded, found = metadata(suite.run), summary(suite.run)
    assert recorded["status"] == found["status"] == status
    assert recorded["pid"] == process.pid
    assert [case["status"] for case in found["cases"]] == ["passed"]
    assert [line["phase"] for line in requests(suite.run)] == ["warmup"] + ["measured"] * 6
    return (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 2), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_a_signal_ends_the_run_in_order_and_keeps_the_finished_case(running, suite, number, code):
    process = running("--device-profile=cpu-2core", "--prompt-lengths=256")
    os.kill(process.pid, number)
    assert process.wait(timeout=120) == code
    assert kept(suite, process, "interrupted"), "the report too"


def test_a_kill_ends_the_engines_and_keeps_the_finished_case(running, suite):
    """Engines of their own processes, which nobody tells to end."""
    process = running()
    engines = engines_of(process)
    assert engines
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert ended(engines)
    assert not kept(suite, process, "running")


def test_an_engine_that_dies_fails_its_case_by_name_and_the_next_case_runs(suite):
    """Decode is killed in the first case and prefill in the second; the third finds them running again."""
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        """
import os, signal, threading, time
import pytest

@pytest.fixture(autouse=True)
def kill(serving, concurrency):
    victim = {1: "decode", 2: "prefill"}.get(concurrency)
    if victim:
        (engine,) = serving.of_role(victim)
        before = engine.counters.generated
        def strike():
            while engine.dead or engine.counters.generated == before:
                time.sleep(0.005)
            os.kill(engine.describe()["pids"][0], signal.SIGKILL)
        threading.Thread(target=strike, daemon=True).start()
"""
    )
    result = suite.outside(*LONG, "--serving=disaggregated", "--requests=8", "--output-tokens=16", timeout=240)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*p64-c1: complete: * requests finished*decode engine 'decode' died: its process was ended by SIGKILL*",
            "*p64-c2: complete: * requests finished*prefill engine 'prefill' died*",
            "restarted the engines: decode had died",
            "restarted the engines: prefill had died",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    cases = {case["name"]: case for case in summary(suite.run)["cases"]}
    assert metadata(suite.run)["status"] == "invalid"
    assert [cases[f"p64-c{n}"]["status"] for n in (1, 2, 3)] == ["invalid", "invalid", "passed"]
    assert "decode engine 'decode' died" in cases["p64-c1"]["failure"]
    assert cases["p64-c3"]["requests"] == {"asked": 16, "finished": 16, "around": 10}
    assert not list((suite.path / ".benchmarks").glob("*/*.json")), (
        "an invalid run has no rows, not even its sound case's"
    )


BREAKS = """
from vllm.v1.core.sched.scheduler import Scheduler
class Breaks(Scheduler):
    def schedule(self, *arguments, **more):
        if self.waiting:
            raise RuntimeError("no page for block 7")
        return super().schedule(*arguments, **more)
"""


def test_an_engine_that_dies_at_its_first_step_is_quoted(suite, monkeypatch):
    """It was "died", and nothing more."""
    (suite.path / "breaks.py").write_text(BREAKS)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{suite.path}")
    suite.outside(*LONG, "--concurrency=1", "--set=engine.args.scheduler_cls=breaks.Breaks")
    (case,) = summary(suite.run)["cases"]
    assert "aggregated engine 'aggregated' died: RuntimeError: no page for block 7" in case["failure"]


def test_a_start_without_descriptors_names_them(suite):
    """It was vLLM's "See root cause above"."""
    command = f"ulimit -n 64; exec {' '.join(suite.command)} {' '.join(LONG)}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == pytest.ExitCode.INTERRUPTED
    assert "Too many open files" in metadata(suite.run)["reason"]


def test_an_engine_that_cannot_start_is_quoted_and_ends_the_run(suite):
    """Its weights are no weights, which only the engine's own process finds out."""
    shutil.copytree(ROOT / "configs" / "models" / "tiny-qwen3", suite.path / "broken")
    (suite.path / "broken" / "model.safetensors").write_bytes(b"not a header" * 99)
    result = suite.outside("--seed=0", *SMALL, "--model-name=broken", "--weights=hub")
    result.assert_outcomes(failed=1)
    line = "vLLM engine 'aggregated' could not start: *SafetensorError: *eader*"
    result.stdout.fnmatch_lines([line])
    assert "Traceback" not in result.stdout.str()
    assert result.ret != 0
    recorded = metadata(suite.run)
    assert recorded["status"] == "error"
    assert recorded["reason"].startswith("vLLM engine 'aggregated' could not start: ")
    assert summary(suite.run)["cases"] == []


def test_an_unknown_engine_argument_is_named_with_the_nearest(suite):
    (suite.path / "own.yaml").write_text(
        """
experiment: e0
model: {name: tiny-qwen3, weights: seeded, max_model_len: 8192}
engine: {kv_cache_memory_bytes: 100000000, args: {max_num_batched_token: 512}}
workload: {prompt_lengths: [64], concurrency: [1]}
"""
    )
    result = suite.outside("--seed=0", "--experiment-config=own.yaml")
    result.stdout.fnmatch_lines(
        ["engine.args.max_num_batched_token: vLLM has no such engine argument; is it max_num_batched_tokens[?]"]
    )
    assert result.ret != 0


def test_a_failing_test_fails_the_run_and_keeps_its_figures(suite, aggregated):
    test = suite.path / "benchmarks" / "e0" / "test_e0.py"
    test.write_text(test.read_text() + "    assert case.concurrency == 1, 'only one'\n")
    suite.inside("--seed=0", *SMALL, lend=[aggregated]).assert_outcomes(passed=1, failed=1)
    found = summary(suite.run)
    assert found["status"] == "failed"
    assert [case["status"] for case in found["cases"]] == ["passed", "failed"]
    assert "only one" in found["cases"][1]["failure"]
    assert found["cases"][1]["metrics"]["ttft"]["count"] == 2


def test_stopping_at_the_first_failure_leaves_an_honest_record(suite, aggregated):
    test = suite.path / "benchmarks" / "e0" / "test_e0.py"
    test.write_text(test.read_text() + "    assert False\n")
    suite.inside("--seed=0", "-x", *SMALL, lend=[aggregated]).assert_outcomes(failed=1)
    recorded = metadata(suite.run)
    assert (recorded["status"], recorded["planned"], list(recorded["cases"])) == ("failed", 2, ["p64-c1"])


def test_an_internal_error_is_an_error(suite, aggregated):
    class Broken:
        def pytest_context_research_case_finished(self):
            raise RuntimeError("a plugin broke")

    suite.inside("--seed=0", *SMALL, lend=[aggregated], plugins=[Broken()])
    recorded = metadata(suite.run)
    assert recorded["status"] == "error"
    assert "a plugin broke" in recorded["reason"]
    assert len(summary(suite.run)["cases"]) == 1


def test_a_run_planned_by_init_run_is_adopted(suite, aggregated):
    from click.testing import CliRunner

    from context_research.cli.main import main

    config = str(ROOT / "configs" / "experiments" / "e0_smoke.yaml")
    made = CliRunner().invoke(main, ["init-run", "--config-path", config, "--model-name", "tiny-qwen3"])
    run_id = made.output.strip()
    assert metadata(suite.run)["status"] == "incomplete"
    other = suite.inside("--seed=0", f"--run-id={run_id}", "--serving=disaggregated", *SMALL)
    other.stderr.fnmatch_lines(["ERROR: run * was planned with serving mode aggregated, not disaggregated"])
    suite.inside("--seed=0", f"--run-id={run_id}", *SMALL, lend=[aggregated]).assert_outcomes(passed=2)
    assert suite.run.name == run_id
    assert metadata(suite.run)["status"] == "completed"
