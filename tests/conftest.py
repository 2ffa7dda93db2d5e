"""Real engines for the whole session: one aggregated, one prefill/decode pair; and E0 in a folder of a test's own."""

import os
import shutil
from pathlib import Path

import pytest

# pytester takes out of sys.modules what a session inside this process imported, and a second matplotlib half works.
import context_research.report.comparison  # noqa: F401
from context_research.hardware.devices import detect
from context_research.models import hub
from context_research.serving import build
from context_research.settings import sources

ROOT = Path(__file__).parent.parent
SMALL = (
    "--prompt-lengths=64",
    "--concurrency=1,2",
    "--requests=2",
    "--repeats=1",
    "--output-tokens=4",
    "--warmup-requests=1",
)
"""E0 cut down to two cases of a second each."""


def pytest_collection_modifyitems(items):
    """GPU tests show why they are skipped elsewhere."""
    device, why = detect()
    for item in items:
        if item.get_closest_marker("gpu") and device != "cuda":
            item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {why}"))


def resolve(serving="aggregated", **values):
    """E0's settings on this machine's CPU; keyword `workload__repeats=1` sets workload.repeats.

    `client` may fail: a case here takes half a second, and a shared machine that stalls twice meanwhile fails it,
    rightly. The check still says what it found; tests/serving/test_planted.py is about that.
    """
    given = {key.replace("__", "."): value for key, value in values.items()}
    always = {"serving": serving, "seed": 0, "device": "cpu", "allow_invalid": ["client"]}
    layer = sources.Layer("test", always | given)
    return sources.resolve("e0", [layer], "cpu", "tests run on the CPU").settings


def start(chosen, logs):
    """The settings' serving mode, running on real engines."""
    model = hub.resolve(chosen.model)
    topology = build.build(chosen, lambda p: build.make_engine(chosen, model, p, logs / f"{p.spec.name}.log"))
    topology.start()
    return topology


@pytest.fixture(scope="session")
def tiny():
    """The built-in model."""
    return hub.resolve(resolve().model)


@pytest.fixture(scope="session")
def aggregated(tmp_path_factory):
    """An aggregated engine, running. Tests must leave it healthy."""
    topology = start(resolve(), tmp_path_factory.mktemp("aggregated"))
    yield topology
    topology.close()


@pytest.fixture(scope="session")
def disaggregated(tmp_path_factory):
    """A prefill/decode pair, running. Tests must leave it healthy."""
    topology = start(resolve("disaggregated"), tmp_path_factory.mktemp("disaggregated"))
    yield topology
    topology.close()


@pytest.fixture(scope="session")
def vllm_imported(tmp_path_factory):
    """All that a simulated run imports, once: torch does not survive that pytester has it imported a second time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND", "1")
        chosen = resolve("disaggregated", backend="simulated", device_profile="cpu-2core")
        start(chosen, tmp_path_factory.mktemp("imports")).close()


class Lend:
    """A plugin that lends running engines to a pytest session inside this process, which can't start or close them."""

    def __init__(self, *running):
        self._engines = {engine.role: engine for topology in running for engine in topology.engines}

    def pytest_context_research_make_engine(self, settings, placement):
        if settings.simulated:  # made where it is used, in seconds
            return None
        return Lent(self._engines[placement.spec.role])


class Changed:
    """A running engine of which a test changes something."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


class Lent(Changed):
    """A running engine that ignores start and close."""

    def start(self): ...

    def close(self): ...


class Suite:
    """E0 in a folder of its own: `inside` runs it on lent engines, `outside` in a process with engines of its own."""

    def __init__(self, pytester):
        self._pytester, self.path = pytester, pytester.path
        shutil.copytree(ROOT / "benchmarks" / "e0", self.path / "benchmarks" / "e0")
        shutil.copy(ROOT / "conftest.py", self.path)
        (self.path / "pytest.ini").write_text("[pytest]\naddopts = --benchmark-save-data -p tests.support.stalls\n")

    def inside(self, *options, lend=(), plugins=()):
        return self._pytester.runpytest_inprocess("benchmarks/e0", *options, plugins=[Lend(*lend), *plugins])

    def outside(self, *options, timeout=120):
        return self._pytester.runpytest_subprocess("benchmarks/e0", *options, timeout=timeout)

    def popen(self, *options):
        """E0 in a process of its own, started and left running."""
        return self._pytester.popen([*self._pytester._getpytestargs(), "benchmarks/e0", *options])

    @property
    def runs(self):
        return sorted((self.path / "outputs" / "runs").glob("*"), key=lambda folder: folder.stat().st_mtime)

    @property
    def run(self):
        """The only run's folder."""
        (folder,) = self.runs
        return folder


@pytest.fixture
def suite(pytester, monkeypatch):
    """E0 in a folder of the test's own, with an environment that names no setting of ours."""
    for name in [name for name in os.environ if name.startswith(("CONTEXT_RESEARCH_", "PYTEST_", "LIGHTNING_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Suite(pytester)
