"""A study's modules are imported as its scripts import them: from their own folder."""

import importlib

import pytest

from tests.support.suite import ROOT


@pytest.fixture
def study(monkeypatch):
    """The module `name` of the study `folder`."""

    def module(folder, name):
        monkeypatch.syspath_prepend(ROOT / "benchmarks" / "studies" / folder)
        return importlib.import_module(name)

    return module
