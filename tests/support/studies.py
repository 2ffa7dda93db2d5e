"""Modules of benchmarks/studies, imported as running them does: their folder is on sys.path."""

import importlib
import sys

from tests.support.suite import ROOT

STUDIES = ROOT / "benchmarks" / "studies"


def study(name):
    """``study("handoff/share")``: the module."""
    folder, _, module = name.partition("/")
    sys.path.insert(0, str(STUDIES / folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(STUDIES / folder))
