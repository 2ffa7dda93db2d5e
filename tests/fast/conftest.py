import os
import sys

import pytest


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No setting, token or device choice of the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith(("CONTEXT_RESEARCH_", "HF_", "HUGGING", "CUDA_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """What is written need not be on the disk: waiting for that takes a third of the tier's time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def no_engine():
    """Importing vLLM or torch takes seconds: tests that need them are in other tiers."""
    heavy = {"torch", "vllm"}
    before = heavy & sys.modules.keys()
    yield
    assert heavy & sys.modules.keys() <= before, "this test imported vLLM or torch: its place is tests/engines"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The test's folder, as working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
