"""Figures are files without content in the tests: drawing takes seconds. Tests of the drawing use `drawn`.

Also a plugin, for sessions in other processes.
"""

from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

_DRAW = Figure.savefig
_decided = []


def pytest_configure(config):
    if _decided:  # a session inside the process of the tests
        return
    with ExitStack() as stack:
        stack.enter_context(blank())
        config.add_cleanup(stack.pop_all().close)


def blank():
    return _saved(lambda _, path, **__: Path(path).touch())


def drawn():
    return _saved(_DRAW)


@contextmanager
def _saved(how):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", how)
        _decided.append(how)
        yield
        _decided.pop()
