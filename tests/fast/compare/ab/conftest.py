import pytest

from context_research.compare.ab import processes as ab_processes
from tests.support.made_sessions import Sessions


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks" / "e0").mkdir(parents=True)
    (tmp_path / "benchmarks" / "e0" / "test_e0.py").touch()
    return tmp_path


@pytest.fixture
def outputs(here):
    return here / "outputs"


@pytest.fixture
def sessions(outputs, monkeypatch):
    stand_in = Sessions(outputs)
    monkeypatch.setattr(ab_processes, "begin", stand_in)
    return stand_in
