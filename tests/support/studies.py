"""Modules of benchmarks/studies, imported as running them does: their folder is on sys.path."""

import importlib
import sys

from tests.support.suite import ROOT


def study(folder, name):
    """The module `name` of a study."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "studies" / folder))
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[0]
