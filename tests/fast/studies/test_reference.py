"""benchmarks/studies/reference without a GPU: what is packed. Its A/B: tests/slow/test_reference.py."""

import subprocess
import tarfile

import numpy as np
import pytest


@pytest.fixture
def reference(study):
    return study("reference", "reference")


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


def test_rows_svgs_and_locks_stay(reference, folder):
    [packed] = reference.pack(folder, folder / "pack")
    with tarfile.open(packed) as archive:
        assert files(archive) == ["reference/runs/r1/requests.jsonl"]


def test_a_large_archive_comes_in_parts_that_cat_puts_together(reference, folder, tmp_path, monkeypatch):
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
