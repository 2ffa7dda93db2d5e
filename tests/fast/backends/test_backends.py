"""Backends by name: which one a run gets, and what each says of itself."""

import pytest

from context_research.backends.registry import BACKENDS, backend_of, named
from context_research.backends.resolve import resolve
from context_research.engines.base import Evidence
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from context_research.settings.schema import Serving
from context_research.settings.sources import Layer
from tests.support import made
from tests.support.settings import backend_on, chosen, resolve_model

SIMULATED = {"backend": "simulated", "device_profile": "cpu-2core"}


def test_the_backends_are_called_as_settings_call_them():
    assert list(BACKENDS) == ["vllm", "simulated"]
    assert all(kind.name == name for name, kind in BACKENDS.items())
    assert backend_of(chosen()).name == "vllm"
    assert backend_of(chosen(**SIMULATED)).name == "simulated"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("command line", "--backend: Input should be 'vllm' or 'simulated', got 'tgi'"),
        ("environment", "CONTEXT_RESEARCH_BACKEND: Input should be 'vllm' or 'simulated', got 'tgi'"),
    ],
)
def test_an_unknown_name_is_refused_where_it_was_given(source, told):
    with pytest.raises(UsageProblem) as problem:
        resolve("e0", [Layer(source, {"backend": "tgi"})])
    assert str(problem.value) == told


def test_a_run_of_a_backend_from_elsewhere_is_refused_by_name():
    with pytest.raises(UsageProblem, match="backend 'tgi' is not known here: one of vllm, simulated"):
        named("tgi")


def test_only_a_real_backend_has_a_clock_on_the_wall():
    real, simulated = backend_of(chosen()), backend_of(chosen(**SIMULATED))
    assert real.evidence == {Evidence.WALL_TIME}
    assert not real.absent
    assert Evidence.WALL_TIME in simulated.absent
    assert not simulated.evidence
    assert (real.measured, simulated.measured) == (True, False)
    assert (real.loop.virtual, simulated.loop.virtual) == (False, True)


def test_energy_is_evidence_where_it_can_be_counted(monkeypatch):
    backend = backend_on(chosen(device="cuda"), (0, 1), 80)
    monkeypatch.setattr("context_research.hardware.devices.joules", lambda devices: 5.0 * len(devices))
    assert backend.joules() == 5.0
    assert backend.evidence == {Evidence.WALL_TIME, Evidence.ENERGY}


def test_a_simulated_machine_is_its_profiles():
    backend = backend_of(chosen(**SIMULATED))
    assert backend.machine == Machine("cpu", (0, 1), backend.machine.memory_bytes)
    assert backend.devices == (0, 1)
    assert backend.simulated is backend.simulated
    assert backend_of(chosen(**SIMULATED)).simulated is not backend.simulated, "another run's"


@pytest.mark.parametrize(
    ("settings", "marker", "serving"),
    [({}, "cpu", 1), ({"device": "cuda", "devices": [0, 1]}, "gpu", 2), (SIMULATED, "simulated", 1)],
)
def test_cases_are_marked_by_what_runs_them(settings, marker, serving):
    backend = backend_on(chosen(**settings), (0, 1), 80)
    assert backend.marker == marker
    assert backend.serving_devices == serving


H200 = {"backend": "simulated", "device_profile": "h200", "device": "cuda"}


@pytest.mark.parametrize("backend", [H200, {"device": "cuda"}])
def test_tensor_parallel_engines_hand_nothing_over(backend):
    made = backend_on(chosen("disaggregated", **backend, devices=[0, 1, 2, 3]), (0, 1, 2, 3), 80)
    with pytest.raises(UsageProblem, match="a handoff between tensor-parallel engines is not part of this version"):
        made.check_engines(resolve_model())


def test_simulated_tensor_parallel_engines_have_their_gpus_for_themselves():
    engines = [{"name": f"replica-{n}", "role": "aggregated", "devices": [n, n + 1]} for n in range(2)]
    serving = Serving.model_validate({"mode": "aggregated", "engines": engines})
    given = chosen(**H200, devices=[0, 1, 2]).model_copy(update={"serving": serving})
    with pytest.raises(UsageProblem, match="tensor-parallel engines are simulated on GPUs of their own"):
        backend_of(given).check_engines(resolve_model())


# What a run has left

ENGINE = made.engine(
    simulated={
        "device_profile": "h200",
        "digest": "abcd",
        "calibrated": False,
        "step_times": {"source": "aiconfigurator", "package": "aiconfigurator-core 1"},
    }
)


def test_a_real_runs_labels_name_its_devices():
    manifest = made.metadata()["environment_manifest"] | {"machine": made.MACHINE}
    run = made.run_record(engines=[made.engine()], environment_manifest=manifest)
    labels = named("vllm").labels
    assert labels.device(run) == "2 CPU cores"
    assert labels.indices(run) == "0,1"
    assert (labels.mark, labels.warning([], [])) == ("", "")


def test_a_simulated_runs_labels_say_that_no_engine_ran():
    labels, run = named("simulated").labels, made.run_record(engines=[ENGINE])
    assert labels.device(run) == "SIMULATED h200 (aiconfigurator-core 1, not calibrated)"
    assert labels.indices(run) == "–"
    cases = [made.case_record("p64-c1", simulation={"steps": 10, "extrapolated": 5})]
    warning = labels.warning(run.engines, cases)
    assert warning.startswith("> **SIMULATED: no engine ran")
    assert "Device profile h200 abcd" in warning
    assert "p64-c1 (50% of steps)" in warning


def test_the_facts_of_a_simulated_run_are_its_profiles_and_not_this_machines():
    facts = named("simulated").labels.facts(made.run_record(engines=[ENGINE]))
    assert facts["device_profile"] == "h200 abcd"
    assert (facts["hardware.gpus"], facts["hardware.cpu"], facts["hardware.driver"]) == ([], (None, 0), None)
    assert facts["hardware.devices"] == 2
