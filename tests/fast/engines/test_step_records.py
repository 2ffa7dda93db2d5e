"""The file of steps, and how long a step took: moments made by hand."""

import subprocess
import sys

import numpy as np
import pytest

from context_research.engines import step_records
from context_research.engines.batch import Batch
from context_research.engines.step_records import Clock, Writer
from context_research.errors import UsageProblem
from context_research.records.files import RunFiles

HEADER = "done,seconds,prefill_requests,prefill_tokens,prefill_kv_tokens,prefill_pairs,decode_requests,decode_kv_tokens"
BATCH = Batch.of([(512, 0), (1, 600), (1, 700)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "steps" / "engine.csv"


def test_a_step_after_idle_time_begins_when_it_was_scheduled():
    assert Clock().seconds(scheduled=10.0, done=10.5) == 0.5


def test_a_busy_engine_leaves_no_time_between_two_steps():
    clock = Clock()
    clock.seconds(10.0, 10.5)
    assert clock.seconds(scheduled=10.6, done=11.0) == 0.5


def test_idle_time_belongs_to_no_step():
    clock = Clock()
    clock.seconds(10.0, 10.5)
    clock.idle()
    assert clock.seconds(20.0, 20.25) == 0.25
    assert clock.seconds(20.3, 20.75) == 0.5, "busy again"


def test_a_batch_scheduled_while_another_runs_counts_what_it_adds():
    """Async scheduling: n + 1 is scheduled, and waits on the device, before n is done."""
    clock = Clock()
    assert clock.seconds(scheduled=10.0, done=11.0) == 1.0
    assert clock.seconds(scheduled=10.1, done=12.0) == 1.0
    assert clock.seconds(scheduled=11.1, done=12.75) == 0.75


def test_steps_never_overlap_even_where_an_empty_one_ends_between_them():
    clock = Clock()
    clock.seconds(10.0, 11.0)
    clock.idle()
    assert clock.seconds(scheduled=10.5, done=11.25) == 0.25


def test_what_is_written_is_read(path):
    writer = Writer(path)
    writer.add(1234.5678901, 0.0123456789, BATCH)
    writer.add(1235.0, 0.25, Batch.of([(1, 601)]))
    writer.flush()
    assert (
        path.read_text()
        == f"{HEADER}\n1234.567890,0.0123457,1,512,0,131328,2,1300\n1235.000000,0.2500000,0,0,0,0,1,601\n"
    )
    steps = step_records.read(path)
    assert steps.dtype.names == tuple(step_records.COLUMNS)
    assert steps["prefill_pairs"].tolist() == [512 * 513 // 2, 0]
    assert steps["seconds"].tolist() == [0.0123457, 0.25]


def test_lines_are_kept_until_there_are_a_few_hundred(path):
    writer = Writer(path)
    for step in range(1000):
        writer.add(float(step), 0.5, BATCH)
    written = len(step_records.read(path))
    assert 1000 - 256 <= written < 1000
    writer.flush()
    assert step_records.read(path)["done"].tolist() == list(range(1000))


def test_a_restarted_engine_appends(path):
    for start in range(3):
        writer = Writer(path)
        writer.add(float(start), 0.5, BATCH)
        writer.flush()
    assert step_records.read(path)["done"].tolist() == [0, 1, 2]
    assert path.read_text().count("done") == 1


def test_a_file_without_steps_is_empty(path):
    Writer(path).flush()
    assert step_records.read(path).shape == (0,)
    assert not np.any(step_records.read(path)["seconds"])


def test_a_full_disk_ends_the_recording_and_not_the_engine(path, monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    writer = Writer(path)
    monkeypatch.setattr(writer, "_stream", Full())
    writer.add(1.0, 0.5, BATCH)
    writer.flush()
    assert len(step_records.read(path)) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param("", "first line is ''", id="empty"),
        pytest.param("a,b\n1,2\n", "first line is 'a,b'", id="foreign"),
        pytest.param(f"{HEADER}\n1.0,0.5,1,512\n", "corrupt", id="cut-off"),
        pytest.param(f"{HEADER}\n1.0,0.5,1,512,0,131328,2,many\n", "corrupt", id="no-number"),
        pytest.param(f"{HEADER}\n1.0,0.5,0,0,0,0,1,9\n1.5,0.0,0,0,0,0,1,9\n", "line 3 can't be", id="no-time"),
        pytest.param(f"{HEADER}\n1.0,nan,0,0,0,0,1,9\n", "line 2 can't be", id="nan"),
        pytest.param(f"{HEADER}\n1.0,0.5,0,0,0,0,-1,9\n", "line 2 can't be", id="negative"),
        pytest.param(b"\xff\xfe\x00", "corrupt", id="binary"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, text, told):
    path = tmp_path / "engine.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageProblem, match=told) as refused:
        step_records.read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("worker", ["", "gw0"])
def test_steps_lie_beside_the_logs(tmp_path, worker):
    files = RunFiles(tmp_path / "logs", "r1")
    assert step_records.path_of(files.logs / worker / "my.engine.log") == files.steps / worker / "my.engine.csv"


def test_the_steps_of_a_log_elsewhere_are_in_a_folder_beside_it(tmp_path):
    assert step_records.path_of(tmp_path / "engine.log") == tmp_path / "steps" / "engine.csv"


def test_reading_steps_takes_neither_vllm_nor_torch():
    code = "import sys, context_research.engines.step_records; assert not {'vllm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
