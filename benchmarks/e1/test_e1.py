"""E1: how much traffic do the devices carry within the limits? See README.md."""

import pytest

pytestmark = pytest.mark.experiment("e1")


def test_e1(serving_run, case):
    result = serving_run(case)
    assert all(repeat.served for repeat in result.repeats)
