"""Every study can be asked for its options, which imports all of it."""

import subprocess
import sys

import pytest

from tests.support.suite import ROOT

SCRIPTS = [path for path in sorted((ROOT / "benchmarks" / "studies").glob("*/*.py")) if "def main(" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_study_tells_its_options(script):
    ended = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "usage: " in ended.stdout.lower()
    assert "--help" in ended.stdout
