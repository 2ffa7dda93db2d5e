"""A plugin for sessions of half a second a case on a shared machine: its stalls do not fail the `client` check.

Allowing the check to fail would not do: a run in which it failed takes part in no verdict.
"""

import pytest

from context_research.measure.checks import judge

_MORE = 10


def pytest_configure(config):
    patched = pytest.MonkeyPatch()
    patched.setattr(judge, "LOOP_LAG", judge.LOOP_LAG * _MORE)
    patched.setattr(judge, "LOOP_MAX", judge.LOOP_MAX * _MORE)
    config.add_cleanup(patched.undo)
