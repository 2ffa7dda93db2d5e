"""What version 1 wrote reads as today's: the same simulated runs, as they were written then and as they are now."""

import json
import shutil
from pathlib import Path

import pytest

from context_research.compare import observations
from context_research.measure.metrics import METRICS
from context_research.records import requests, store
from context_research.records.ab import AbRecord
from context_research.records.files import RunFiles
from context_research.records.requests import RequestRecord, WindowRecord
from context_research.records.run import RunRecord
from context_research.records.summary import SummaryRecord
from context_research.records.verdict import VerdictRecord
from tests.support import made, made_runs
from tests.support.suite import ROOT

THEN, NOW = ROOT / "tests/support/version_1", ROOT / "tests/engines/simulated/golden"
MODES = ("aggregated", "disaggregated")


def lines(folder):
    return list(requests.read(folder / "requests.jsonl"))


def without_the_first_legs_end(request):
    """How a prefill leg ended was in no file."""
    first, *rest = request.legs
    first = first.model_copy(update={"finish_reason": None}) if rest else first
    return request.model_copy(update={"legs": (first, *rest)})


LATER = {"attainment", "request_rate", "input_token_rate", "output_token_rate"}


def as_then(case):
    """Without what there was not: hashes of what was sent and written, some checks, some metrics."""
    then = store.read(THEN / "aggregated" / "e0_summary.json", SummaryRecord).cases[0]
    known = {check.check for check in then.validity}

    def metrics(of):
        return of.model_copy(
            update={"metrics": {name: metric for name, metric in of.metrics.items() if name not in LATER}}
        )

    return metrics(case).model_copy(
        update={
            "sent_sha256": None,
            "validity": tuple(check for check in case.validity if check.check in known),
            "whole": metrics(case.whole),
            "repeats": tuple(map(metrics, case.repeats)),
        }
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_summary_has_every_figure(mode):
    then, now = (store.read(folder / mode / "e0_summary.json", SummaryRecord) for folder in (THEN, NOW))
    assert now.requests_file is not None
    assert all(case.sent_sha256 for case in now.cases)
    assert then == now.model_copy(update={"requests_file": None, "cases": tuple(map(as_then, now.cases))})
    assert then.cases[0].axes == {"prompt_tokens": 256, "concurrency": 1}


@pytest.mark.parametrize("mode", MODES)
def test_every_request_is_the_same(mode):
    then, now = lines(THEN / mode), lines(NOW / mode)
    assert not any(isinstance(line, WindowRecord) for line in then)
    assert then == [without_the_first_legs_end(line) for line in now if isinstance(line, RequestRecord)]
    assert len(then) == 20


@pytest.mark.parametrize("mode", MODES)
def test_repeats_are_the_same_but_for_what_no_file_held(mode, tmp_path):
    """Transfers and energy: version 1 kept them of whole cases only."""
    files = RunFiles(tmp_path, mode)
    made.on_disk(tmp_path, mode, status="completed")
    shutil.copy(THEN / mode / "requests.jsonl", files.requests)
    then = observations.read(files)
    shutil.copy(NOW / mode / "requests.jsonl", files.requests)
    now = observations.read(files)
    assert then.keys() == now.keys()
    for case in now:
        for before, after in zip(then[case], now[case], strict=True):
            for metric in METRICS:
                if not metric.name.startswith("handoff"):
                    assert list(metric.samples(before)) == list(metric.samples(after)), metric.name


def without_outcomes(verdict):
    """Simulated runs had some, and a label named no engines."""
    plain = {"outcome": None, "reason": "", "pairs_needed": None}
    primary = tuple(pairs.model_copy(update=plain) for pairs in verdict.primary)
    sides = tuple(side.model_copy(update={"label": side.label.partition(" (")[0]}) for side in verdict.sides)
    return verdict.model_copy(update={"primary": primary, "sides": sides})


def test_a_verdict_is_the_same():
    then, now = (store.read(folder / "verdict.json", VerdictRecord) for folder in (THEN, NOW))
    old = tuple(pairs for pairs in now.descriptive if pairs.metric not in LATER)
    now = now.model_copy(update={"descriptive": old})
    assert without_outcomes(then) == without_outcomes(now)


def test_a_class_that_has_moved_is_found_where_it_is(tmp_path):
    payload = made.metadata(settings=made.resolved("disaggregated").settings.model_dump(mode="json"))
    payload["settings"]["serving"]["handoff"]["connector_module"] = "context_research.serving.nixl"
    path = tmp_path / "run_metadata.json"
    path.write_text(json.dumps(payload | {"schema_version": 1}))
    module = store.read(path, RunRecord).setting("serving.handoff.connector_module")
    assert module == "context_research.engines.vllm.nixl_connector"
    assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()


def test_an_ab_of_two_arms_is_one_of_two_named_arms(tmp_path):
    """Version 2 knew a baseline and a candidate."""
    files = made_runs.A_B(tmp_path)
    now = store.read(files.record, AbRecord)
    payload = json.loads(files.record.read_text()) | {"schema_version": 2}
    arms = payload["plan"].pop("arms")
    del payload["plan"]["against"], payload["plan"]["looks"]
    payload["plan"] |= arms
    files.record.write_text(json.dumps(payload))
    assert store.read(files.record, AbRecord) == now
