"""E2: what a few long prompts do to the short ones beside them, and what helps. See README.md."""

import pytest

pytestmark = pytest.mark.experiment("e2")


def test_e2(serving_run, case):
    result = serving_run(case)
    assert all(repeat.timelines for repeat in result.repeats)
