"""Figures are files without content in the tests: drawing takes seconds. Tests of the drawing use `drawn`."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

_DRAW = Figure.savefig


def _leave_blank(_, path, **__):
    Path(path).touch()


@contextmanager
def blank():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", _leave_blank)
        yield


@contextmanager
def drawn():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", _DRAW)
        yield
