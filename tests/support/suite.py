"""E0 in a folder of a test's own, run by pytester."""

import shutil
from pathlib import Path

from tests.support.engines import Lend
from tests.support.processes import interruptible

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
SHARED = {"CONTEXT_RESEARCH_OTHER_LOAD": "100%", "CONTEXT_RESEARCH_SHARE_DEVICES": "yes"}
"""Environment of the tests' runs: they share this machine with each other, and what they measure is of no account."""
SMALL = (
    "--prompt-lengths=64",
    "--concurrency=1,2",
    "--requests=2",
    "--repeats=1",
    "--output-tokens=4",
    "--warmup-requests=1",
)
"""E0 cut down to two cases of a second each."""
INI = """
[pytest]
addopts = --benchmark-save-data -p tests.support.stalls -p tests.support.figures -p no:rerunfailures
context_research_short_options = true
"""


class Suite:
    """E0 in a folder of its own: run `inside` this process, on engines lent or its own, or by `popen`."""

    def __init__(self, pytester):
        self._pytester, self.path = pytester, pytester.path
        shutil.copytree(ROOT / "benchmarks" / "e0", self.path / "benchmarks" / "e0")
        shutil.copy(ROOT / "conftest.py", self.path)
        (self.path / "pytest.ini").write_text(INI)

    def inside(self, *options, lend=(), plugins=(), folder="benchmarks/e0"):
        return _with_reasons(self._pytester.runpytest_inprocess(folder, *options, plugins=[Lend(*lend), *plugins]))

    def outside(self, *options, timeout=120):
        return _with_reasons(self._pytester.runpytest_subprocess("benchmarks/e0", *options, timeout=timeout))

    def popen(self, *options):
        """E0 in a process of its own, started and left running."""
        return self._pytester.popen([*self.command, *options], preexec_fn=interruptible)

    @property
    def command(self):
        return [*self._pytester._getpytestargs(), "benchmarks/e0"]

    @property
    def runs(self):
        return sorted((self.path / "outputs" / "runs").glob("*"), key=lambda folder: folder.stat().st_mtime)

    @property
    def run(self):
        """The only run's folder."""
        (folder,) = self.runs
        return folder


def _with_reasons(result):
    """Let `assert_outcomes` say what failed in there: by it scripts/test.sh knows a busy machine."""
    plain = result.assert_outcomes

    def assert_outcomes(**expected):
        try:
            plain(**expected)
        except AssertionError as error:
            failed = [line for line in result.outlines if line.startswith("FAILED ")]
            raise AssertionError("\n".join([str(error), *failed])) from None

    result.assert_outcomes = assert_outcomes
    return result
