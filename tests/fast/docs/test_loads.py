"""docs/loads.md: its examples are loads."""

import re

import pytest
import yaml

from context_research.settings.experiments import CONFIGS
from context_research.settings.schema import Settings
from context_research.workload import load, traces
from context_research.workload.case import cases
from tests.support.settings import chosen
from tests.support.suite import ROOT

PAGE = (ROOT / "docs" / "loads.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def settings(example):
    smoke = yaml.safe_load((CONFIGS / "experiments" / "e0_smoke.yaml").read_text(encoding="utf-8"))
    serving = chosen().serving.model_dump()
    return Settings.model_validate(smoke | {"seed": 0, "device": "cpu", "serving": serving} | yaml.safe_load(example))


@pytest.mark.parametrize("example", [each for each in EXAMPLES if "trace" not in each])
def test_an_open_loads_example_is_drawn(example):
    [case] = cases(settings(example))
    measured = [each for each in load.planned(case, 0) if each.phase == "measured"]
    assert len(measured) == pytest.approx(4 * 60, rel=0.2)


def test_the_replays_example_is_valid():
    [example] = [each for each in EXAMPLES if "trace" in each]
    assert settings(example).workload.trace.time_scale == 0.5


def test_the_lines_of_each_format_are_read(tmp_path):
    lines = re.findall(r"^\| `(\w+)` \| `([^`]*)`(?: below `(.*?)`)?", PAGE, re.MULTILINE)
    assert [name for name, _, _ in lines] == ["mooncake", "azure", "rows"]
    for name, line, header in lines:
        ids = ", ".join(map(str, range(14)))
        (tmp_path / name).write_text("\n".join(filter(None, [header, line.replace("46, …", ids)])))
        assert len(traces.read(str(tmp_path / name)).at) == 1
