"""A plugin for sessions of half a second a case on a shared machine: its stalls do not fail the `client` check.

Allowing the check to fail would not do: a run in which it failed takes part in no verdict.
"""

import pytest

from context_research import validity

_MORE = 10


def pytest_configure(config):
    patched = pytest.MonkeyPatch()
    patched.setattr(validity, "LOOP_LAG", validity.LOOP_LAG * _MORE)
    patched.setattr(validity, "LOOP_MAX", validity.LOOP_MAX * _MORE)
    config.add_cleanup(patched.undo)
