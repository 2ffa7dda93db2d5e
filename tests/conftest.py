"""The folder is the tier; real engines for the whole session: one aggregated, one prefill/decode pair."""

import os
from pathlib import Path

import pytest

from context_research.hardware.devices import detect
from context_research.plugin import MARKERS
from tests.support import figures
from tests.support.engines import start
from tests.support.settings import resolve_model, tolerant
from tests.support.suite import ROOT, SHARED, Suite

TIERS = {
    "fast": "no engine, and no process of seconds",
    "engines": "on engines shared by the session, or simulated ones",
    "slow": "engines or processes of the test's own",
    "gpu": "on a CUDA device",
}


os.environ.update(SHARED)


def pytest_configure(config):
    for name in TIERS.keys() - MARKERS.keys():  # the plugin has `gpu` too, and it means the same
        config.addinivalue_line("markers", f"{name}: {TIERS[name]}")


def pytest_collection_modifyitems(items):
    """Mark each test with its tier; GPU tests show why they are skipped elsewhere."""
    device, why = detect()
    here = Path(__file__).parent
    for item in items:
        if not item.path.is_relative_to(here):  # `pytest .` collects the experiments too
            continue
        tier = item.path.relative_to(here).parts[0]
        item.add_marker(tier)
        if tier == "gpu" and device != "cuda":
            item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {why}"))


@pytest.fixture(scope="session")
def tiny():
    """The built-in model."""
    return resolve_model()


@pytest.fixture(scope="session")
def aggregated(tmp_path_factory):
    """An aggregated engine, running. Tests must leave it healthy."""
    topology = start(tolerant(), tmp_path_factory.mktemp("aggregated"))
    yield topology
    topology.close()


@pytest.fixture(scope="session")
def disaggregated(tmp_path_factory):
    """A prefill/decode pair, running. Tests must leave it healthy."""
    topology = start(tolerant("disaggregated"), tmp_path_factory.mktemp("disaggregated"))
    yield topology
    topology.close()


@pytest.fixture(scope="session")
def vllm_imported(tmp_path_factory):
    """All that a simulated run imports, once: torch does not survive that pytester has it imported a second time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
        chosen = tolerant("disaggregated", backend="simulated", device_profile="cpu-2core")
        start(chosen, tmp_path_factory.mktemp("imports")).close()


@pytest.fixture(scope="session", autouse=True)
def blank_figures():
    with figures.blank():
        yield


@pytest.fixture
def drawn():
    """Figures are drawn."""
    with figures.drawn():
        yield


@pytest.fixture(scope="session")
def plugin_imported():
    """All of it, and matplotlib: pytester takes out of sys.modules what a session in this process imported."""
    import context_research.plugin.experiment_hooks
    import context_research.report.comparison  # noqa: F401


@pytest.fixture
def suite(plugin_imported, pytester, monkeypatch):
    """E0 in a folder of the test's own, with an environment that names no setting of ours but `SHARED`."""
    for name in [name for name in os.environ if name.startswith(("CONTEXT_RESEARCH_", "PYTEST_", "LIGHTNING_"))]:
        monkeypatch.delenv(name)
    for name, value in {"PYTHONPATH": str(ROOT), **SHARED}.items():
        monkeypatch.setenv(name, value)
    return Suite(pytester)
