"""What a session's process sees of the machine. How it ends: test_going_on.py."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from context_research.compare.ab import processes as ab_processes

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
