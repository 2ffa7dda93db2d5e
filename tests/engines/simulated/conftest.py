"""Simulated engines only: no test here starts a real one, or waits for time to pass."""

import pytest


@pytest.fixture(autouse=True)
def allowed(request, monkeypatch):
    """The simulated backend is allowed here, also in the environment that `suite` makes."""
    if "suite" in request.fixturenames:
        request.getfixturevalue("suite")
    monkeypatch.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
