"""An A/B's session as a process: what it sees of the machine, and how a signal ends it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from context_research.compare.ab import processes as ab_processes
from tests.support.processes import interruptible, until

SEEN = """
import json, os
from pathlib import Path
def test_look():
    seen = [sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")]
    Path("seen.json").write_text(json.dumps(seen))
"""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Cores and CUDA_VISIBLE_DEVICES of a session, begun on a machine with GPUs 4 to 7."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.setattr(ab_processes, "visible_gpus", lambda: ["4", "5", "6", "7"])
    Path("test_seen.py").write_text(SEEN)

    def look(device, group):
        process = ab_processes.begin(["-p", "no:cacheprovider", "test_seen.py"], Path("log"), device, group)
        ended = ab_processes.first_to_end([SimpleNamespace(process=process)]).process
        assert ended.returncode == 0, Path("log").read_text()
        return json.loads(Path("seen.json").read_text())

    return look


def test_a_group_of_gpus_is_all_that_a_session_sees_of_them(seen):
    assert seen("cuda", [2, 3]) == [sorted(os.sched_getaffinity(0)), "6,7"]


def test_a_group_of_cores_is_all_that_a_session_sees(seen):
    core = max(os.sched_getaffinity(0))
    assert seen("cpu", [core]) == [[core], "4,5,6,7"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_groups_a_session_sees_everything(seen, device):
    assert seen(device, None) == [sorted(os.sched_getaffinity(0)), "4,5,6,7"]


SLOW = """
import signal, time, pytest
from pathlib import Path
@pytest.fixture
def engine():
    yield
    time.sleep(1)  # engines take their time to close
    Path("closed").touch()
def test_long(engine):
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("as our plugin does in a session that measures"))
    Path("running").touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_lets_the_session_close_its_engines(tmp_path, monkeypatch, number):
    """A terminal's Ctrl-C goes to the whole process group: the session must not get a second signal while it ends."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_slow.py").write_text(SLOW)
    arguments = ["-p", "no:cacheprovider", "test_slow.py"]
    script = (
        "from pathlib import Path; from types import SimpleNamespace as Running\n"
        "from context_research.compare.ab import processes as ab_processes\n"
        "running = []\n"
        "with ab_processes.ended_with_us(running):\n"
        f"    running.append(Running(process=ab_processes.begin({arguments}, Path('log'), 'cpu', None)))\n"
        "    ab_processes.first_to_end(running)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script], process_group=0, stderr=subprocess.DEVNULL, preexec_fn=interruptible
    )
    try:
        assert until((tmp_path / "running").exists, seconds=30)
        (os.killpg if number == signal.SIGINT else os.kill)(driver.pid, number)
        driver.wait(timeout=30)
    finally:
        driver.kill()
        driver.wait()
    assert (tmp_path / "closed").exists(), (tmp_path / "log").read_text()
