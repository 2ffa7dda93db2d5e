"""E0: time to first token and token gaps by prompt length and load, aggregated or disaggregated. See README.md."""

import pytest

pytestmark = pytest.mark.experiment("e0")


def test_e0(serving_run, case):
    result = serving_run(case)
    assert all(repeat.output_tokens for repeat in result.repeats)
