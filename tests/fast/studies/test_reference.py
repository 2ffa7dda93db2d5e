"""benchmarks/studies/reference without a GPU: what it runs, and what is packed. Its A/B: tests/slow."""

import subprocess
import tarfile
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import CliRunner

from context_research.settings import sources
from context_research.settings.sources import Layer
from context_research.workload.case import cases
from tests.support.studies import study

reference = study("reference", "reference")


@pytest.fixture
def ran(monkeypatch):
    """The commands that a call would run: each goes well, and takes no time."""
    commands = []

    def python(call, name, command, *arguments, **_):
        commands.append([*command.split(), *arguments])
        return "done"

    monkeypatch.setattr(reference.Call, "_python", python)
    monkeypatch.setattr(reference, "subprocess", SimpleNamespace(run=lambda *_, **__: None))
    monkeypatch.setattr(reference, "signal", Mock())
    return commands


def called(out, *arguments):
    return CliRunner().invoke(reference.main, [str(out), *arguments, "--only", "ab"])


def test_two_gpus_hold_replicas_against_the_split_in_groups_side_by_side(tmp_path, ran):
    told = called(tmp_path / "out", "--gpus", "2", "--pairs", "1", "--device-groups", "0,1;2,3")
    assert told.exit_code == 0, told.output
    [command] = ran
    given = {"--baseline=aggregated-2x", "--candidate=disaggregated-1p1d", "--pairs=1", "--device-groups=0,1;2,3"}
    assert given <= set(command[: command.index("--")])


def test_a_second_call_adds_nothing_and_other_things_are_refused(tmp_path, ran):
    for _ in range(2):
        told = called(tmp_path, "--gpus", "2")
        assert told.exit_code == 0, told.output
        assert "stage ab: done" in told.stdout
    other = called(tmp_path, "--gpus", "1")
    assert other.exit_code == 2
    assert "other GPUs, cases, pairs or options" in other.stderr
    assert len(ran) == 1


def test_the_whole_of_e0_is_every_case_of_its_file(tmp_path, ran):
    assert called(tmp_path, "--whole").exit_code == 0
    [command] = ran
    options = [option for option in command[command.index("--") + 1 :] if "benchmark-storage" not in option]
    assert options == ["--weights=seeded", "--output-tokens=128"]
    given = Layer("test", {"seed": 0, "device": "cuda", "workload.output_tokens": 128})
    on_a_gpu = sources.resolve("e0", [given], "cuda", "a test").settings
    names = [case.name for case in cases(on_a_gpu)]
    assert names == [f"p{length}-c{level}" for length in (1024, 4096, 16384, 32768) for level in (1, 8)]


def test_the_whole_is_for_one_gpu(tmp_path, ran):
    two = called(tmp_path / "two", "--whole", "--gpus", "2")
    assert two.exit_code == 2
    assert "e0.yaml is made for one GPU" in two.stderr
    assert not (tmp_path / "two").exists()


@pytest.fixture
def folder(tmp_path):
    """Of a reference: 100 kB that nothing compresses, what stays behind, and an older archive."""
    for name in ("runs/r1/requests.jsonl", "rows/r1.json", "reports/r1.svg", ".ab-1.lock", "pack/reference.tar.xz"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(0).bytes(100_000))
    return tmp_path / "out"


def files(archive):
    return sorted(member.name for member in archive if member.isfile())


def test_rows_svgs_and_locks_stay(folder):
    [packed] = reference.pack(folder, folder / "pack")
    with tarfile.open(packed) as archive:
        assert files(archive) == ["reference/runs/r1/requests.jsonl"]


def test_a_large_archive_comes_in_parts_that_cat_puts_together(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "PART", 40_000)
    parts = reference.pack(folder, tmp_path / "elsewhere")
    assert [part.name for part in parts] == [f"reference.tar.xz.{number}" for number in (1, 2, 3)]
    assert max(part.stat().st_size for part in parts) <= 40_000
    whole = tmp_path / "whole.tar.xz"
    with whole.open("wb") as stream:
        subprocess.run(["cat", *parts], stdout=stream, check=True)
    with tarfile.open(whole) as archive:
        assert files(archive) == ["reference/runs/r1/requests.jsonl"]
    assert reference.pack(folder, tmp_path / "elsewhere") == parts
    assert sorted((tmp_path / "elsewhere").iterdir()) == parts
