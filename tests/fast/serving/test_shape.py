"""What a serving mode is called: its engines, its devices."""

import pytest

from context_research.records.run import EngineRecord, RunRecord
from context_research.serving import shape
from tests.support import made
from tests.support.settings import chosen


def engines(*roles, name=None, devices=None):
    return [
        made.engine(name=name or f"{role}-{number}", role=role, devices=[number] if devices is None else devices)
        for number, role in enumerate(roles)
    ]


def run(started, planned=None, device="cuda"):
    given = {"settings": {"serving": {"engines": planned}}} if planned else {"settings": {}}
    return RunRecord.model_validate(made.metadata(engines=started, device=device, **given))


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        (["aggregated"], "1 engine ×1"),
        (["aggregated", "aggregated"], "2 replicas ×2"),
        (["prefill", "decode"], "1P1D ×2"),
        (["prefill", "prefill", "decode"], "2P1D ×3"),
    ],
)
def test_a_run_is_called_by_its_engines_and_gpus(roles, told):
    assert shape.of_run(run(engines(*roles))) == told
    assert shape.of_run(run(engines(*roles), device="cpu")) == told.partition(" ×")[0]


def test_engines_on_one_gpu_share_it_and_one_on_two_has_both():
    assert shape.of_run(run(engines("prefill", "decode", devices=[3]))) == "1P1D ×1"
    assert shape.of_run(run(engines("aggregated", devices=[0, 1]))) == "1 engine ×2"


def test_engines_that_started_anew_are_counted_once():
    again = [*engines("prefill", "decode"), made.engine(name="decode-1", role="decode", devices=[1], start_s=9)]
    assert shape.of_run(run(again)) == "1P1D ×2"
    assert shape.of_engines("cuda", [EngineRecord.model_validate(each) for each in again]) == "1P1D ×2"


def test_a_run_whose_engines_never_started_is_called_by_its_plan():
    assert shape.of_run(run([], [{"role": "prefill"}, {"role": "decode"}, {"role": "decode"}])) == "1P2D"


@pytest.mark.parametrize(
    ("serving", "more", "told"),
    [
        ("aggregated", {"device": "cuda"}, "1 engine ×1"),
        ("aggregated", {"device": "cuda", "devices": (0, 1)}, "1 engine ×2"),
        ("disaggregated", {"device": "cuda"}, "1P1D ×1"),
        ("disaggregated-1p1d", {"device": "cuda"}, "1P1D ×2"),
        ("aggregated-2x", {"device": "cuda"}, "2 replicas ×2"),
        ("aggregated-2x", {}, "2 replicas"),
        ("disaggregated", {}, "1P1D"),
    ],
)
def test_settings_say_it_before_anything_has_run(serving, more, told):
    assert shape.of_settings(chosen(serving, **more)) == told
