import errno
import json
import os
import stat

import pytest
from pydantic import ValidationError

from context_research.compare import comparison
from context_research.errors import StorageFailure, UsageProblem
from context_research.records import redact, running, store
from context_research.records.base import SCHEMA_VERSION
from context_research.records.case import CheckRecord, RoleRecord
from context_research.records.files import PLANNED, RunFiles, check_run_id, find_run, is_planned, new_run_id
from context_research.records.running import Running
from tests.support import made
from tests.support.artifacts import keep, plain

TOKEN = "hf_abcdefgh12345678"


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path / "outputs", "r1")


def line(check):
    """Any record does."""
    return CheckRecord(check=check, status="pass", evidence="")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(files):
    keep(files.metadata, "run_metadata", made.metadata())
    assert plain(files.metadata, "run_metadata") == json.loads(json.dumps(made.metadata()))
    assert names(files.folder) == ["run_metadata.json"]


def test_an_artifact_is_replaced_whole(files):
    keep(files.metadata, "run_metadata", made.metadata(command=["x" * 10_000]))
    keep(files.metadata, "run_metadata", made.metadata(status="running"))
    assert plain(files.metadata, "run_metadata")["status"] == "running"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(files, monkeypatch, call, error):
    keep(files.metadata, "run_metadata", made.metadata())
    before = files.metadata.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, call, fail)
    told = StorageFailure if isinstance(error, OSError) else type(error)
    with pytest.raises(told):
        keep(files.metadata, "run_metadata", made.metadata(status="failed"))
    assert files.metadata.read_bytes() == before
    assert names(files.folder) == ["run_metadata.json"]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"status": "fine"}, id="status"),
        pytest.param({"schema_version": SCHEMA_VERSION + 1}, id="version"),
        pytest.param({"run_id": ""}, id="no-id"),
        pytest.param({"device": "tpu"}, id="device"),
        pytest.param({"seed": "0"}, id="type"),
        pytest.param({"serving": {}}, id="nested"),
    ],
)
def test_what_breaks_the_schema_is_not_written(files, wrong):
    with pytest.raises(ValidationError):
        keep(files.metadata, "run_metadata", made.metadata(**wrong))
    assert not files.folder.exists()


def test_what_json_lacks_is_not_written(files):
    with pytest.raises(ValueError, match="Out of range float"):
        keep(files.metadata, "run_metadata", made.metadata(settings={"x": float("nan")}))
    assert not files.folder.exists()


PROMISED = ("run_id", "status", "experiment", "backend", "device", "seed", "serving", "model", "reason", "started")
PROMISED += ("command", "settings", "settings_sources", "engines", "environment_manifest")


@pytest.mark.parametrize("key", PROMISED)
def test_every_promised_key_of_the_metadata_is_required(files, key):
    with pytest.raises(ValidationError):
        keep(files.metadata, "run_metadata", {k: v for k, v in made.metadata().items() if k != key})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"status": "done"}, "status", id="case-status"),
        pytest.param({"metrics": {"ttft": {"unit": "s"}}}, "count", id="metric-without-count"),
        pytest.param({"requests": {"asked": -1, "finished": 0}}, "greater than or equal to 0", id="negative-count"),
        pytest.param(
            {"validity": [{"check": "x", "status": "maybe", "evidence": ""}]}, "not provable", id="check-status"
        ),
    ],
)
def test_a_case_that_breaks_the_schema_is_not_written(files, change, told):
    good = made.summary(cases=[made.case()])
    keep(files.summary("e0"), "summary", good)
    with pytest.raises(ValidationError, match=told):
        keep(files.summary("e0"), "summary", made.summary(cases=[made.case(**change)]))
    assert plain(files.summary("e0"), "summary")["cases"][0]["status"] == "passed"


def test_artifacts_are_as_readable_as_other_files(files):
    keep(files.metadata, "run_metadata", made.metadata())
    store.append_lines(files.requests, [line("1")])
    assert stat.S_IMODE(files.metadata.stat().st_mode) == stat.S_IMODE(files.requests.stat().st_mode)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param(b"", "corrupt, no valid JSON", id="empty"),
        pytest.param(b'{"schema_version": 1,', "corrupt, no valid JSON", id="half"),
        pytest.param(b"\xff\xfe", "corrupt, no valid JSON", id="bytes"),
        pytest.param(b"[]", "corrupt or from another version: the whole: ", id="list"),
        pytest.param(b"{}", "corrupt or from another version: run_id: ", id="empty-mapping"),
    ],
)
@pytest.mark.parametrize("kind", ["run_metadata", "summary"])
def test_what_cannot_be_read_is_named(files, kind, content, told):
    files.folder.mkdir(parents=True)
    if content is not None:
        files.metadata.write_bytes(content)
    with pytest.raises(UsageProblem, match=told) as caught:
        plain(files.metadata, kind)
    assert str(files.metadata) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_schema_version_is_named(files):
    files.folder.mkdir(parents=True)
    files.metadata.write_text(json.dumps(made.metadata(schema_version=SCHEMA_VERSION + 1)))
    with pytest.raises(
        UsageProblem, match=f"json has schema version {SCHEMA_VERSION + 1}, this version reads {SCHEMA_VERSION}"
    ):
        plain(files.metadata, "run_metadata")


def test_lines_are_added(files):
    store.append_lines(files.requests, [line("1"), line("2")])
    store.append_lines(files.requests, [])
    store.append_lines(files.requests, [line("3")])
    assert [json.loads(each)["check"] for each in files.requests.read_text().splitlines()] == ["1", "2", "3"]


def test_a_line_that_json_lacks_adds_nothing(files):
    store.append_lines(files.requests, [line("1")])
    before = files.requests.read_text()
    endless = RoleRecord(tokens_per_s=float("inf"), busy_share=0.0)
    with pytest.raises(ValueError, match="Out of range float"):
        store.append_lines(files.requests, [line("2"), endless])
    assert files.requests.read_text() == before


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"])
def test_no_token_is_ever_written(files, monkeypatch, variable):
    monkeypatch.setenv(variable, TOKEN)
    keep(files.metadata, "run_metadata", made.metadata(command=["pytest", f"--x={TOKEN}"], reason=TOKEN))
    store.append_lines(files.requests, [line(f"401 for {TOKEN}!")])
    for path in (files.metadata, files.requests):
        assert TOKEN not in path.read_text()
        assert f"<{variable}>" in path.read_text()
    assert plain(files.metadata, "run_metadata")["command"] == ["pytest", f"--x=<{variable}>"]


@pytest.mark.parametrize("value", ["", "1", "token"[:5]])
def test_a_variable_too_short_for_a_token_blanks_nothing(monkeypatch, value):
    monkeypatch.setenv("HF_TOKEN", value)
    assert redact.text("1 token") == "1 token"


def runs(outputs, **by_id):
    """Runs with these statuses, each a second newer than the one before."""
    for age, (run_id, status) in enumerate(by_id.items()):
        files = made.on_disk(outputs, run_id, status=status)
        os.utime(files.metadata, (1000 + age, 1000 + age))


def test_latest_is_the_newest_completed(tmp_path):
    runs(tmp_path, b="completed", a="completed", c="failed", d="running", e="invalid", f="interrupted", g="incomplete")
    assert find_run(tmp_path, "latest").run_id == "a"


@pytest.mark.parametrize("run_id", ["a", "b"])
def test_a_run_is_found_by_its_id_whatever_its_status(tmp_path, run_id):
    runs(tmp_path, a="completed", b="failed")
    assert find_run(tmp_path, run_id) == RunFiles(tmp_path, run_id)


def test_latest_needs_a_completed_run(tmp_path):
    runs(tmp_path, a="failed", b="running")
    with pytest.raises(UsageProblem, match=rf"none of the 2 runs in {tmp_path} completed; name one, such as b$"):
        find_run(tmp_path, "latest")


def test_an_unknown_run_is_told_with_the_newest(tmp_path):
    runs(tmp_path, z="completed", a="failed")
    with pytest.raises(UsageProblem, match=rf"no run 'x' in {tmp_path}; the newest is a$"):
        find_run(tmp_path, "x")


@pytest.mark.parametrize("name", ["latest", "x"])
def test_no_run_at_all_is_told_with_how_to_start_one(tmp_path, name):
    with pytest.raises(UsageProblem, match=rf"no run in {tmp_path / 'none'}: start one with"):
        find_run(tmp_path / "none", name)


@pytest.mark.parametrize("run_id", ["", ".", "..", "latest", "a/b", "/abs", "a/", "../x"])
def test_a_run_id_must_be_one_folder(tmp_path, run_id):
    with pytest.raises(UsageProblem, match="can't be a folder's name"):
        check_run_id(RunFiles(tmp_path, run_id))


@pytest.mark.parametrize("run_id", ["x" * 300, "a\0b", "a\nb", "-x"], ids=["long", "nul", "newline", "option"])
def test_a_run_id_is_of_the_letters_that_its_message_names(tmp_path, run_id):
    with pytest.raises(UsageProblem, match="can't be a folder's name"):
        check_run_id(RunFiles(tmp_path, run_id))


def test_a_run_id_is_taken_once(tmp_path):
    runs(tmp_path, a="completed")
    with pytest.raises(UsageProblem, match=rf"run a exists already in {tmp_path}"):
        check_run_id(RunFiles(tmp_path, "a"))
    check_run_id(RunFiles(tmp_path, "b"))


def test_a_planned_run_can_be_adopted(tmp_path):
    files = made.on_disk(tmp_path, "a", status="incomplete", reason=PLANNED)
    assert is_planned(files)
    check_run_id(files)
    assert not is_planned(made.on_disk(tmp_path, "b", status="incomplete"))
    assert not is_planned(RunFiles(tmp_path, "c"))


def test_new_run_ids_differ_and_say_what_ran(tmp_path):
    made_ids = {new_run_id("e0", "disaggregated", 7) for _ in range(20)}
    assert len(made_ids) > 15
    for run_id in made_ids:
        assert "-e0-disaggregated-s7-" in run_id
        check_run_id(RunFiles(tmp_path, run_id))
    assert "-snone-" in new_run_id("e0", "aggregated", None)


def test_outputs_are_made_where_they_can_be(tmp_path):
    store.check_writable(tmp_path / "new" / "outputs")
    assert names(tmp_path / "new" / "outputs" / "runs") == []


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_outputs_that_cannot_be_written_are_named(tmp_path, path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageProblem, match=rf"cannot write to the outputs folder {tmp_path / path}: .*\(--outputs\)"):
        store.check_writable(tmp_path / path)


def test_what_cannot_be_written_is_named(files, monkeypatch):
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageFailure, match=f"^cannot write {files.metadata}: No space left on device$"):
        keep(files.metadata, "run_metadata", made.metadata())


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_that_cannot_all_be_written_are_none(files, monkeypatch):
    """Else a line would be half there, and the run's other requests could not be read."""
    store.append_lines(files.requests, [line("one")])
    before = files.requests.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailure, match=r"requests\.jsonl: No space left on device"):
        store.append_lines(files.requests, [line("two")])
    assert files.requests.read_bytes() == before


def test_a_disk_with_no_space_for_a_runs_last_words_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageProblem, match=r"cannot write to the outputs folder .*: No space left on device"):
        store.check_writable(tmp_path)


@pytest.fixture
def under_way(files):
    keep(files.metadata, "run_metadata", made.metadata(status="running"))
    held = Running(files)
    yield held
    held.end()


def test_a_run_that_is_under_way_is_not_called_dead(under_way, files):
    assert running.read(files).reason is None


def test_a_run_whose_process_is_gone_is_called_killed(under_way, files):
    under_way._stream.close()  # as the kernel does, however the process ends
    assert running.read(files).reason == running.KILLED
    with pytest.raises(UsageProblem, match=r"its status is running \(its process is gone: it was killed"):
        comparison.load(files)


def test_a_run_that_has_ended_leaves_no_lock(under_way, files):
    under_way.end()
    assert not files.running.exists()


def test_the_space_for_last_words_can_be_had_once_the_disk_is_full(under_way, files):
    assert files.running.stat().st_size == store.LAST_WORDS
    under_way.spend()
    assert 0 < files.running.stat().st_size < store.LAST_WORDS
    under_way.spend()
    assert files.running.stat().st_size == 0
    assert running.read(files).reason is None, "it is still under way"
