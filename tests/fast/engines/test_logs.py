import os
from fnmatch import fnmatchcase

import pytest

from context_research.engines.vllm import logs

START = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
PREFIX = "(EngineCore pid=17) ERROR 11-23 14:05:01 [core.py:842] "


@pytest.mark.parametrize(
    ("error", "lines", "told"),
    [
        pytest.param(ValueError("too\n  long"), [], "ValueError: too long", id="the-error-itself"),
        pytest.param(ValueError("clear"), ["KeyError: 'other'"], "ValueError: clear", id="the-error-before-the-log"),
        pytest.param(START, [PREFIX + "ValueError: no memory"], "ValueError: no memory", id="the-log"),
        pytest.param(START, ["  torch.OutOfMemoryError: CUDA"], "torch.OutOfMemoryError: CUDA", id="qualified"),
        pytest.param(START, ["ValueError: first", "KeyError: 'last'", "done"], "KeyError: 'last'", id="the-last"),
        pytest.param(START, ["Exception: plain"], "Exception: plain", id="exception"),
        pytest.param(
            START,
            ["ValueError: cause", "RuntimeError: Engine core initialization failed. See root cause above."],
            "ValueError: cause",
            id="not-the-unhelpful",
        ),
        pytest.param(ValueError(""), ["OSError: from the log"], "OSError: from the log", id="no-message"),
        pytest.param(ValueError(""), [], "ValueError", id="nothing-at-all"),
        pytest.param(
            START,
            ["OSError: [Errno 24] Too many open files", "SomeError: See root cause above."],
            "OSError: [Errno 24] Too many open files",
            id="not-what-points-elsewhere",
        ),
        pytest.param(
            START,
            [
                PREFIX + "RuntimeError: no page",
                "vllm.EngineDeadError: EngineCore encountered an issue. See stack trace",
            ],
            "RuntimeError: no page",
            id="not-what-vllm-says-of-a-death",
        ),
        pytest.param(
            START, ["terminate called after throwing 'x'"], "terminate called after throwing 'x'", id="native"
        ),
    ],
)
def test_reason(tmp_path, error, lines, told):
    log = tmp_path / "engine.log"
    log.write_text("\n".join(lines))
    assert logs.reason(error, log) == told


def test_reason_needs_no_log(tmp_path):
    assert logs.reason(START, tmp_path / "none.log") == str(START)


def test_reason_is_one_line_of_bounded_length(tmp_path):
    log = tmp_path / "engine.log"
    log.write_bytes(b"ValueError: \xff" + b"x" * 5000)
    assert len(logs.reason(START, log)) < 600
    assert len(logs.reason(ValueError("x\n" * 5000), log)) < 600


def test_all_output_goes_to_the_file_and_only_while_open(tmp_path, capfd):
    log = tmp_path / "deep" / "engine.log"
    with logs.to_file(log):
        print("from python")
        os.write(1, b"from c, out\n")
        os.write(2, b"from c, err\n")
    print("after")
    os.write(2, b"after, err\n")
    assert sorted(log.read_text().splitlines()) == ["from c, err", "from c, out", "from python"]
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("after\n", "after, err\n")


def test_output_comes_back_after_an_error(tmp_path, capfd):
    with pytest.raises(ValueError, match="mine"), logs.to_file(tmp_path / "engine.log"):
        raise ValueError("mine")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        pytest.param(-9, "its process was ended by SIGKILL (the kernel does that *)", id="killed"),
        pytest.param(-7, "its process was ended by SIGBUS (is /dev/shm full?)", id="bus"),
        pytest.param(-6, "its process was ended by SIGABRT, which last said: Too many open files (epoll)", id="abort"),
    ],
)
def test_a_process_that_ended_by_a_signal_is_named_with_what_that_mostly_means(tmp_path, code, told):
    log = tmp_path / "engine.log"
    log.write_text("all is well\nToo many open files (epoll)\n")
    assert fnmatchcase(logs.death(log, 0, [0, None, code]), told)
    start = RuntimeError(f"Engine core initialization failed. Failed core proc(s): {{'EngineCore_DP0': {code}}}")
    assert fnmatchcase(logs.reason(start, log), told)


def test_where_neither_log_nor_exit_code_tells_there_is_nothing(tmp_path):
    assert logs.death(tmp_path / "none.log", 0, [0, 1, None]) is None


def test_a_death_where_shared_memory_has_run_out_says_so(tmp_path, monkeypatch):
    """UCX and torch end by a segmentation fault then."""
    log = tmp_path / "engine.log"
    log.write_text("!!!!!!! Segfault encountered !!!!!!!\n  File ...\n")
    monkeypatch.setattr(logs, "_SHARED", tmp_path)
    monkeypatch.setattr(logs, "_ENOUGH", 1 << 60)
    assert fnmatchcase(logs.death(log, 0, []), f"!!!!!!! Segfault encountered !!!!!!! ({tmp_path} has * MiB left)")
