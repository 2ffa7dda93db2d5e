"""E0: time to first token and token gaps by prompt length and load, aggregated or disaggregated. See README.md."""

import pytest

pytestmark = pytest.mark.experiment("e0")


def test_e0(serving_run, prompt_tokens, concurrency):
    result = serving_run(prompt_tokens=prompt_tokens, concurrency=concurrency)
    assert all(repeat.output_tokens for repeat in result.repeats)
