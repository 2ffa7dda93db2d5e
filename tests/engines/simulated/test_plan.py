"""A plan of two simulated GPUs, whole: every way, ranked, with a report and the command that would confirm it."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from context_research.cli.main import main
from context_research.settings import sources
from context_research.settings.options import SIMULATED_OPT_IN
from tests.support.suite import ROOT

pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("vllm_imported")]
SMALL = ("--", "--prompt-lengths=1024", "--output-tokens=32")


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setenv(SIMULATED_OPT_IN, "1")
    monkeypatch.chdir(ROOT)
    limits = ("--slo=ttft=1,tpot=0.03",)
    options = ("--device-profile=h200", "--devices=2", "--chunks=2048", "--jobs=1", *limits, f"--outputs={tmp_path}")
    result = CliRunner().invoke(main, ["plan", *options, *SMALL], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (record,) = tmp_path.glob("plans/*/capacity_plan.json")
    return result.output, json.loads(record.read_text()), tmp_path


def test_every_way_is_ranked_and_the_two_best_can_be_confirmed(planned):
    output, record, outputs = planned
    assert {each["name"] for each in record["candidates"]} == {"2x", "1x-tp2", "1p1d"}
    assert all(each["carried"][0]["bound"] == "exact" for each in record["candidates"])
    assert sum(each["well"] for each in record["candidates"]) >= 2
    (report,) = outputs.glob("reports/*.md")
    assert report.read_text().startswith("# SIMULATED")
    command = next(line for line in output.splitlines() if line.startswith("context-research ab e1"))
    words = shlex.split(command)
    assert "--primary=capacity" in words[: words.index("--")]
    arms = [word for word in words if word.startswith("--arm=")]
    assert len(arms) == 2
    for arm in arms:
        name, file = arm.removeprefix("--arm=").split()[0].split("=")
        engines = sources.read_yaml(Path(file))["engines"]
        assert sum(len(engine["devices"]) for engine in engines) == 2, name
