"""A small outputs folder to be spoilt: two runs of either mode, an A/B of six pairs, a parity reference, a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from context_research.compare.ab import sessions
from context_research.engines.batch import Batch
from context_research.engines.step_records import Writer
from context_research.hardware.manifest import environment_manifest
from context_research.measure import metrics, waterfall
from context_research.measure.metrics import METRICS, Repeat
from context_research.models import hub
from context_research.records import sent, store
from context_research.records.ab import AbRecord, PlanRecord, SessionRecord
from context_research.records.case import (
    CaseRecord,
    CheckRecord,
    HandoffRecord,
    RepeatRecord,
    Requests,
    Tokens,
    Whole,
)
from context_research.records.files import AbFiles, RunFiles
from context_research.records.reference import OutputRecord, ReferenceRecord
from context_research.records.requests import FileRecord, RequestRecord
from context_research.records.run import EngineRecord, ManifestRecord, RunRecord, new_run
from context_research.records.summary import SummaryRecord
from context_research.request import Leg, Timeline
from context_research.settings import sources
from context_research.settings.schema import Mode
from context_research.settings.sources import Layer

CASE, PROMPT, OUTPUT = "p64-c1", 64, 4
MODES: dict[str, Mode] = {"baseline": "aggregated", "candidate": "disaggregated"}
REFERENCE = "references/reference.json"


def make(outputs: Path) -> None:
    """Runs r1 (aggregated) and r2 (disaggregated) of six repeats, A/B ab1 with its runs, a reference."""
    run(outputs, "r1", "aggregated", seed=0, repeats=6)
    run(outputs, "r2", "disaggregated", seed=0, repeats=6)
    files, made = AbFiles(outputs, "ab1"), list[SessionRecord]()
    for pair in range(6):
        for arm, mode in MODES.items():
            run_id = f"ab1-{pair}-{arm}"
            run(outputs, run_id, mode, seed=pair, repeats=1)
            done = SessionRecord(pair=pair, arm=arm, seed=pair, run_id=run_id, status="completed", seconds=1.0)
            made.append(done)
    plan = PlanRecord(
        experiment="e0",
        folder="benchmarks/e0",
        arms=dict[str, str](MODES),
        against="baseline",
        pairs=6,
        seed=0,
        repeats=1,
        pytest_options=(),
        primary=("ttft", "tpot"),
        practical=0.03,
        allow_different=(),
        settings={arm: _settings(mode, 0).settings.model_dump(mode="json") for arm, mode in MODES.items()},
    )
    moment = "2026-11-28T10:00:00+00:00"
    store.write(
        files.record,
        AbRecord(
            ab_id="ab1",
            status="completed",
            pid=None,
            started=moment,
            finished=moment,
            plan=plan,
            sessions=tuple(made),
        ),
    )
    store.write(files.verdict, sessions.judge(files).record())
    output = OutputRecord(token_ids=(1, 2, 3, 4), alternatives=({"1": -0.5, "2": -1.5},) * OUTPUT)
    store.write(
        outputs / REFERENCE,
        ReferenceRecord(run_id="r1", engine="aggregated", key={"model": "tiny"}, outputs={"0" * 64: output}),
    )


def run(outputs: Path, run_id: str, mode: Mode, seed: int, repeats: int) -> None:
    """A completed run of one case, written by the runs' own writers."""
    files = RunFiles(outputs, run_id)
    passes = [list(_served(mode, seed, number)) for number in range(repeats)]
    measured = [Repeat.of(served, served) for served in passes]
    timelines = [timeline for served in passes for timeline in served]
    windows = [repeat.window(CASE, number, 0.0) for number, repeat in enumerate(measured)]
    lines = [RequestRecord.of(t, CASE, 0.0, waterfall.parts(t)) for t in timelines]
    store.append_lines(files.requests, [*windows, *lines])
    record = _record(run_id, mode, seed)
    store.write(files.metadata, record)
    for number, engine in enumerate(record.engines):
        _write_steps(files.steps / f"{engine.name}.csv", engine.role, 1000.0 * number)
    summary = SummaryRecord.of(record, [_case(mode, measured, timelines)], FileRecord.of(files.requests))
    store.write(files.summary("e0"), summary)


def _write_steps(path: Path, role: str, began: float) -> None:
    """Steps of prompts, of tokens and of both, as far as the role has them: 1 ms, and more with what is computed."""
    writer, done = Writer(path), began
    for number in range(120):
        size = 64 << number % 4
        parts = [(size, 0)] if role != "decode" else []
        parts += [(1, size + number)] * (1 + number % 3) if role != "prefill" and number % 2 else []
        batch = Batch.of(parts or [(1, size)])
        seconds = 1e-3 + 1e-6 * batch.prefill_tokens + 1e-4 * batch.decode_requests
        done += seconds
        writer.add(done, seconds, batch)
    writer.flush()


def _settings(mode: Mode, seed: int) -> sources.Resolved:
    given = Layer("fuzz", {"serving": mode, "device": "cpu", "seed": seed})
    return sources.resolve("e0", [given], "cpu", "made for it")


def _record(run_id: str, mode: Mode, seed: int) -> RunRecord:
    resolved = _settings(mode, seed)
    manifest = ManifestRecord.model_validate(environment_manifest())
    made = new_run(run_id, resolved, hub.resolve(resolved.settings.model), ["pytest", "benchmarks/e0"], manifest)
    engines = tuple(
        EngineRecord(
            name=spec.name,
            role=spec.role,
            devices=(0,),
            kv_pool_bytes=1 << 29,
            start_s=2.0,
            vllm_config={"cache": {"block_size": 128}, "model": {"dtype": "torch.float32"}},
        )
        for spec in resolved.settings.serving.engines
    )
    ended = {"status": "completed", "finished": made.started, "exit_status": 0, "planned": 1}
    return made.model_copy(update=ended | {"engines": engines, "cases": {CASE: "passed"}})


def _case(mode: Mode, measured: list[Repeat], timelines: list[Timeline]) -> CaseRecord:
    split = mode == "disaggregated"
    return CaseRecord(
        name=CASE,
        axes={"prompt_tokens": PROMPT, "concurrency": 1},
        requests=Requests(asked=len(timelines), finished=len(timelines)),
        sent_sha256=sent.digest(timelines),
        tokens=Tokens(
            prompt=PROMPT * len(timelines),
            output=OUTPUT * len(timelines),
            prompt_computed_on_decode=0 if split else None,
            prompt_external=PROMPT * len(timelines) if split else 0,
        ),
        handoff=HandoffRecord(connector="NixlConnector" if split else None, transfers=0, failed=0, bytes=0),
        metrics=metrics.summaries(METRICS, measured),
        whole=Whole(metrics=metrics.summaries(METRICS, measured), seconds=sum(each.seconds for each in measured)),
        repeats=tuple(
            RepeatRecord(
                seconds=each.seconds,
                steady_seconds=each.steady_seconds,
                finished=len(each.timelines),
                output_tokens=each.output_tokens,
                metrics=metrics.summaries(METRICS, [each]),
            )
            for each in measured
        ),
        waterfall=waterfall.summarize(timelines),
        validity=(CheckRecord(check="complete", status="pass", evidence="made"),),
        status="passed",
    )


def _served(mode: Mode, seed: int, repeat: int) -> Iterator[Timeline]:
    """Requests one after another; the disaggregated ones take a tenth longer."""
    slower, due = (1.1 if mode == "disaggregated" else 1.0), 10.0 * repeat
    for number in range(3):
        first = due + 0.1 * slower + 0.001 * ((seed + number) % 5)
        times = [first + 0.01 * index for index in range(OUTPUT)]
        answer = Leg("aggregated", sent=due, queued=due, started=due, first_token=first)
        legs = [answer]
        if mode == "disaggregated":
            ahead = Leg("prefill", "prefill", sent=due, queued=due, started=due, first_token=first - 0.01)
            sent_at, read = first - 0.01, (first - 0.009, first - 0.006)
            answer = Leg("decode", "decode", sent=sent_at, queued=sent_at, started=first - 0.005, first_token=first)
            answer.read_started, answer.read_finished = read
            legs = [ahead, answer]
        answer.token_times, answer.token_ids, answer.finish_reason = times, list(range(OUTPUT)), "length"
        yield Timeline(
            request=f"e0-{CASE}-repeat{repeat}-{number:04d}",
            prompt_sha256=f"{seed}{repeat}{number}".ljust(64, "0"),
            repeat=repeat,
            scheduled=due,
            prompt_tokens=PROMPT,
            output_tokens_asked=OUTPUT,
            legs=legs,
        )
        due = times[-1]
