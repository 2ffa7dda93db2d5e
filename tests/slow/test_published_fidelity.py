"""What docs/results/simulation-h200 says comes out of the archived runs again: the calibrated profile, the errors."""

import re
import tarfile

import pytest
from click.testing import CliRunner

from context_research.cli import main as cli
from context_research.engines.simulated import profiles
from context_research.engines.simulated.step_time import aiconfigurator
from context_research.settings.options import SIMULATED_OPT_IN
from tests.support.suite import ROOT

PUBLISHED = ROOT / "docs/results/simulation-h200"
RUN = re.compile(r"\d{8}-\d{6}-e0-\w+-s\d-[0-9a-f]{4}")
pytestmark = pytest.mark.skipif(aiconfigurator.installed() is None, reason="aiconfigurator-core is not installed")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(ROOT / "docs/results/h200-e0/four-cases/runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def command(outputs, monkeypatch):
    monkeypatch.setenv(SIMULATED_OPT_IN, "1")

    def run(name, published, *options):
        runs = dict.fromkeys(RUN.findall(published.read_text()))
        result = CliRunner().invoke(cli.main, [name, *runs, "--outputs", str(outputs), *options])
        assert result.exit_code == 0, result.output

    return run


def test_the_calibrated_profile(command, outputs):
    published, made = PUBLISHED / "h200cal.yaml", outputs / "h200cal.yaml"
    command("calibrate", published, "--device-profile", "h200", "--write", str(made))
    assert profiles.load(str(made)) == profiles.load(str(published))


def test_the_errors_of_the_profile_as_shipped(command, outputs):
    published = PUBLISHED / "as-shipped.md"
    command("fidelity", published, "--device-profile", "h200")
    [made] = (outputs / "reports").glob("fidelity-*.md")
    assert made.read_text() == published.read_text()
