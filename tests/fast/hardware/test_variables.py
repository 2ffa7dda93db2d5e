"""Which variables a run records: those that change what is measured, and of their relatives the names alone."""

import pytest

from context_research.hardware.manifest import environment_manifest


@pytest.mark.parametrize(
    "name",
    [
        "UCX_TLS",
        "UCX_RNDV_THRESH",
        "NIXL_LOG_LEVEL",
        "VLLM_CPU_OMP_THREADS_BIND",
        "VLLM_USE_DEEP_GEMM",
        "OMP_NUM_THREADS",
    ],
)
def test_what_changes_a_figure_is_recorded(monkeypatch, name):
    monkeypatch.setenv(name, "value")
    assert environment_manifest()["variables"][name] == "value"


@pytest.mark.parametrize("name", ["UCX_AUTH", "NIXL_PASSWD", "VLLM_S3_CREDENTIAL", "VLLM_API_KEY", "UCX_NEW", "OMP_X"])
def test_of_what_is_not_listed_the_value_is_not_recorded(monkeypatch, name):
    monkeypatch.setenv(name, "value")
    assert environment_manifest()["variables"][name] == "<set, not recorded>"


def test_other_variables_are_not_recorded_at_all(monkeypatch):
    monkeypatch.setenv("SOME_OTHER", "value")
    assert "SOME_OTHER" not in environment_manifest()["variables"]
