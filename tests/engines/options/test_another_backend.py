"""A third backend: one class and a line in the registry, and nothing else in the package asks which one it is."""

import pytest

from context_research.backends.base import Backend, Labels
from context_research.backends.registry import BACKENDS
from context_research.compare import comparison
from context_research.engines.base import Evidence
from context_research.engines.loop import process_loop
from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from context_research.records.files import RunFiles
from tests.support.artifacts import metadata, rows_saved, summary
from tests.support.foreign import Foreign
from tests.support.suite import SMALL


class ServerLabels(Labels):
    engine = "tgi on "

    def device(self, _):
        return "a server somewhere"

    def row_device(self, *_):
        return "somewhere"

    def facts(self, run):
        return {"server": run.engines[0].model_extra["product"]}


class ServerBackend(Backend):
    """A server that is running already: no weights here, no devices of ours."""

    name = "server"
    labels = ServerLabels()
    needs_weights = False
    needs_own_devices = False
    machine = Machine("cpu", (0,), (1 << 40,))
    evidence = frozenset({Evidence.WALL_TIME})

    @property
    def loop(self):
        return process_loop()

    def check(self):
        if self.settings.serving.handoff:
            raise UsageProblem("a server has its own handoff")

    def check_engines(self, _): ...

    def make_engine(self, _, placement, log):
        return Foreign(placement, log)

    def joules(self):
        return None


@pytest.fixture
def server(suite, monkeypatch):
    monkeypatch.setitem(BACKENDS, "server", ServerBackend)

    def run(*options):
        given = ("--seed=0", "--backend=server", *SMALL, "--concurrency=1", "--allow-invalid=client", *options)
        return suite.inside(*given)

    return run


def test_a_run_of_it_is_measured_judged_and_named(server, suite):
    result = server()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["context-research: e0, aggregated, backend server, device cpu, *"])
    assert metadata(suite.run)["backend"] == "server"
    statuses = {check["check"]: check["status"] for check in summary(suite.run)["cases"][0]["validity"]}
    assert (statuses["complete"], statuses["window"]) == ("pass", "pass")
    assert statuses["cache"] == statuses["parity"] == "not provable"
    report = (suite.path / "outputs" / "reports" / f"{suite.run.name}.md").read_text()
    assert report.startswith("# e0: aggregated (1 engine), tiny-qwen3, on a server somewhere\n")
    (saved,) = rows_saved(suite.path)
    assert "[server somewhere, " in saved.read_text()


def test_what_it_refuses_is_refused_before_anything_is_written(server, suite):
    server("--serving=disaggregated").stderr.fnmatch_lines(["*a server has its own handoff"])
    assert not (suite.path / "outputs").exists()


def test_its_runs_are_compared_with_each_other_by_its_own_facts(server, suite):
    for name in ("r1", "r2"):
        server(f"--run-id={name}").assert_outcomes(passed=1)
    runs = [comparison.load(RunFiles(suite.path / "outputs", name)) for name in ("r1", "r2")]
    assert comparison.check_comparable(*runs) == {}
    assert comparison.facts(runs[0])["server"] == "tgi"
    assert comparison.facts(runs[0])["not_provable"] == ["cache", "clock", "parity", "pressure", "tokens", "waterfall"]


def test_an_unknown_backend_is_refused_with_those_that_there_are(server, suite):
    result = suite.inside("--seed=0", "--backend=tgi", *SMALL)
    result.stderr.fnmatch_lines(["*--backend: Input should be 'vllm' or 'simulated' or 'server', got 'tgi'"])
