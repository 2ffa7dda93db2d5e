"""Ways in which an open load is not the one that was described, planted between its plan and the engines."""

import asyncio
from array import array
from dataclasses import replace

import numpy as np
import pytest

from context_research.measure.case import measure
from context_research.measure.checks import evidence
from context_research.models import hub
from context_research.records.files import RunFiles
from context_research.workload import load
from context_research.workload.arrivals import timed
from context_research.workload.case import cases
from tests.support.planted import failed
from tests.support.settings import small

CLASSES = {
    "chat": {"share": 3, "prompt": {"low": 40, "high": 80}, "output": 4},
    "document": {"prompt": 600, "output": 4},
}


def opened(serving="disaggregated", **more):
    asked = {"rate": 6.0, "warmup_s": 1.0, "window_s": 4.0, "classes": CLASSES, "arrivals": "open"}
    plain = {"prompt_lengths": (), "concurrency": (), "requests": 17}
    return small(serving, **{f"workload__{key}": value for key, value in (plain | asked | more).items()})


@pytest.fixture
def judge(tmp_path):
    """An open case's result, its requests sent by `arrive`."""

    def judged(topology, chosen, arrive=timed):
        (case,), model = cases(chosen), hub.resolve(chosen.model)
        standing = evidence.standing(model, [case], RunFiles(tmp_path, "planted"))
        return measure(case, model, topology, standing, arrive=arrive)

    return judged


@pytest.mark.parametrize("serving", ["aggregated", "disaggregated"])
def test_a_sound_load_passes(request, judge, serving):
    topology, chosen = request.getfixturevalue(serving), opened(serving)
    result = judge(topology, chosen)
    if set(failed(result)) <= {"client", "clock"}:  # shared machines stall at times
        result = judge(topology, chosen) if failed(result) else result
    assert failed(result) == {}
    record = result.record(())
    assert set(record.arrivals.due) == set(CLASSES)
    assert not record.overloaded


async def late(requests, case, serve):
    """A client that sends everything 50 ms after it was due, and says so."""

    async def later(request, due):
        await asyncio.sleep(0.05)
        return await serve(request, due)

    await timed(requests, case, later)


async def hurried(requests, case, serve):
    """A client that sends at another rate than the load's."""
    await timed([replace(each, due=each.due and each.due * 0.9) for each in requests], case, serve)


async def without_documents(requests, case, serve):
    await timed([each for each in requests if each.class_name != "document"], case, serve)


async def swapped(requests, case, serve):
    """A prompt as long as the output should be, and an output as long as the prompt."""

    def other(each):
        few = array("i", each.prompt[: each.output_tokens])
        return replace(each, prompt=few, output_tokens=len(each.prompt)) if len(each.prompt) < 90 else each

    await timed([other(each) if each.due is not None else each for each in requests], case, serve)


@pytest.mark.parametrize(
    ("arrive", "check", "told"),
    [
        (late, "client", "late (at most"),
        (hurried, "load", "due at other moments"),
        (without_documents, "load", "of class document were never sent"),
        (swapped, "load", "prompts' length differs from the load's"),
    ],
)
def test_another_load_is_caught(aggregated, judge, arrive, check, told):
    found = failed(judge(aggregated, opened("aggregated"), arrive))
    assert told in found[check]


def test_rescaled_gaps_are_caught(aggregated, judge, monkeypatch):
    """As `vllm bench serve` draws them: so many requests in exactly so long."""
    real = load.arrivals

    def rescaled(workload, rng):
        moments = real(workload, rng)
        return moments * (len(moments) / workload.rate / moments[-1])

    monkeypatch.setattr(load, "arrivals", rescaled)
    assert "gaps were rescaled" in failed(judge(aggregated, opened("aggregated")))["load"]


def test_gaps_of_another_process_are_caught(aggregated, judge, monkeypatch):
    """Evenly spaced, and called Poisson."""
    monkeypatch.setattr(load, "arrivals", lambda workload, _: np.arange(1, 100) / workload.rate * 1.001)
    found = failed(judge(aggregated, opened("aggregated", repeats=2)))
    assert "gaps are not those of a gamma process" in found["load"]


def test_few_requests_are_judged_too(aggregated, judge):
    result = judge(aggregated, opened("aggregated", window_s=0.5))
    assert not [check for check in result.checks if "could not be judged" in check.evidence]
    assert result.record(()).status in ("passed", "invalid")
