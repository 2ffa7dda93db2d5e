"""Parity references: kept under what may change an output, and refused where they are something else."""

import json
import shutil

import pytest

from context_research.engines.loop import process_loop
from context_research.errors import EngineFailure, UsageProblem
from context_research.measure.checks import output_parity
from context_research.measure.checks.output_parity import Kept, sample
from context_research.workload.case import point
from context_research.workload.prompts import requests
from tests.support.settings import chosen, resolve_model


class Echo:
    """An engine whose output is its prompt's first tokens, `missing` some."""

    name = role = "prefill"
    missing = 0

    async def serve(self, request, leg, *, output_tokens, handoff, alternatives):
        assert handoff is None
        leg.token_ids = request.prompt[: output_tokens - self.missing]
        leg.alternatives = [{token: -0.5} for token in leg.token_ids] if alternatives else []


def batch(settings, level=4):
    return requests(point(settings.model_copy(update={"seed": 0}), 64, level), 16384, 0)


def kept(folder, settings=None, requests=None, dtype="bfloat16"):
    settings = settings or chosen()
    return Kept(folder, sample(batch(settings)) if requests is None else requests, settings, resolve_model(dtype=dtype))


@pytest.fixture
def made(tmp_path):
    one = kept(tmp_path)
    one.make(Echo(), process_loop(), "r1")
    return one


def test_exact_outputs_ask_for_no_alternatives(tmp_path):
    one = kept(tmp_path, dtype="float32")
    one.make(Echo(), process_loop(), "r1")
    assert all(output.alternatives == () for output in one.read().outputs.values())


def test_a_reference_is_read_back(made, tmp_path):
    again = kept(tmp_path)
    assert again.path == made.path
    found = again.read()
    assert found.origin == "the prefill engine alone, in run r1"
    assert set(found.outputs) == {request.sha256 for request in sample(batch(chosen()))}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(chosen(engine__block_size=64), id="engine"),
        pytest.param(chosen(engine__batch_invariant=True), id="batch-invariant kernels"),
        pytest.param(chosen(engine__args={"max_num_partial_prefills": 2}), id="vLLM's own argument"),
        pytest.param(chosen(workload__output_tokens=3), id="output tokens"),
        pytest.param(chosen(seed=1), id="nothing that matters but the requests"),
    ],
)
def test_what_may_change_an_output_changes_the_name(made, tmp_path, settings):
    other = requests(point(settings, 64, 4), 16384, 0)
    assert kept(tmp_path, settings, sample(other)).path != made.path


def test_both_modes_share_a_reference(made, tmp_path):
    assert kept(tmp_path, chosen("disaggregated")).path == made.path


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_a_corrupt_reference_is_refused_by_name(made, text):
    made.path.write_text(text)
    with pytest.raises(UsageProblem, match=f"{made.path.name}.*delete this parity reference"):
        made.read()


@pytest.mark.parametrize("cut", ["token_ids", "alternatives"])
def test_a_reference_that_is_cut_short_is_refused(made, cut):
    payload = json.loads(made.path.read_text())
    for output in payload["outputs"].values():
        output[cut].pop()
    made.path.write_text(json.dumps(payload))
    with pytest.raises(UsageProblem, match=r"is corrupt: 1[56] tokens with 1[56] alternatives where 16 were asked for"):
        made.read()


def test_an_engine_that_stops_early_makes_no_reference(tmp_path):
    engine, one = Echo(), kept(tmp_path)
    engine.missing = 1
    with pytest.raises(EngineFailure, match="made 15 of 16 tokens"):
        one.make(engine, process_loop(), "r1")
    assert not one.path.exists()


def test_a_reference_of_something_else_is_refused(made, tmp_path):
    other = kept(tmp_path, chosen(engine__block_size=64))
    shutil.copy(made.path, other.path)
    with pytest.raises(UsageProblem, match=r"something else \(other engine\): delete it"):
        other.read()


def test_a_changed_key_is_refused(made):
    payload = json.loads(made.path.read_text())
    payload["key"]["weights"] = "other"
    made.path.write_text(json.dumps(payload))
    with pytest.raises(UsageProblem, match=r"other weights"):
        made.read()


def test_the_sample_is_of_measured_requests():
    phases = [request.phase for request in batch(chosen())]
    assert phases == ["ramp"] * 4 + ["measured"] * 17 + ["drain"] * 3
    assert [request.id[-4:] for request in sample(batch(chosen()))] == ["0004", "0012", "0020"]
    assert len(sample(batch(chosen(workload__requests=1, workload__concurrency=[1]), 1))) == 1
    assert sample([]) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model__weights": "dummy"}, "dummy weights"),
        ({"workload__temperature": 0.5}, "temperature 0.5"),
        ({}, None),
    ],
)
def test_what_can_not_be_compared_says_why(values, reason):
    found = output_parity.inapplicable(chosen(**values))
    assert found is None if reason is None else reason in found
