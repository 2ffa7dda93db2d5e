"""The load generator against a queue whose mean wait is known (benchmarks/studies/load)."""

import pytest

from tests.support.studies import study


@pytest.mark.simulated
def test_waits_are_those_of_an_m_d_1_queue(monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
    for found in study("load", "queueing").study([0.5, 0.7], 20_000):
        assert found.requests == pytest.approx(20_000, rel=0.03)
        assert abs(found.error) < 0.05
        assert abs(found.error_of_serving) < 0.001
