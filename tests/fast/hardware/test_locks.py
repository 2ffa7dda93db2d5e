"""One run at a time on a device."""

import subprocess
import sys

import pytest

from context_research.errors import UsageProblem
from context_research.hardware import locks
from context_research.hardware.devices import lasting_names
from context_research.hardware.locks import Hold
from tests.support.suite import ROOT


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "TEMPORARY", tmp_path)


def test_a_second_run_on_a_device_is_refused_and_told_which_run_has_it():
    first = Hold(["core-1", "core-0"], "run a")
    with pytest.raises(UsageProblem, match=r"core-1 is in use by run a \(pid \d+\): .*--devices.*--share-devices"):
        Hold(["core-1"], "run b")
    Hold(["core-2"], "run b").release()
    first.release()
    first.release()
    Hold(["core-1"], "run b").release()


def test_a_refused_run_holds_nothing():
    first = Hold(["core-1"], "run a")
    with pytest.raises(UsageProblem):
        Hold(["core-0", "core-1"], "run b")
    Hold(["core-0"], "run c").release()
    first.release()


def test_a_killed_run_holds_nothing(tmp_path):
    code = (
        "import os, pathlib, signal\n"
        "from context_research.hardware import locks\n"
        "locks.TEMPORARY = pathlib.Path(os.environ['FOLDER'])\n"
        "locks.Hold(['core-0'], 'run a'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], env={"FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)}, check=False
    )
    assert killed.returncode == -9
    Hold(["core-0"], "run b").release()


def test_cores_have_lasting_names():
    assert lasting_names("cpu", [0, 3]) == ["core-0", "core-3"]
