"""Does a rest before a case change its figures? README.md says more."""

import time

import pytest

pytestmark = pytest.mark.experiment("rest")


def test_rest(serving_run, case, rest_s):
    """Called once for each case: a point of all axes. `rest_s` is no setting; the test takes it by its name."""
    time.sleep(rest_s)
    result = serving_run(case)
    assert all(repeat.output_tokens for repeat in result.repeats)
