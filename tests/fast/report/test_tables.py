"""How figures are written: as many digits as they need, and a dash for none."""

import pytest

from context_research.report import tables


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((1.455, 1.137, 1.861), ["1.46", "1.14", "1.86"]),
        ((1.105, 1.097, 1.113), ["1.105", "1.097", "1.113"]),
        ((0.0437, 0.0435, 0.044), ["0.0437", "0.0435", "0.0440"]),
        ((10.522, 10.435, 10.61), ["10.5", "10.4", "10.6"]),
        ((1234.5, None, None), ["1234", "–", "–"]),
        ((0.0, None, None), ["0", "–", "–"]),
        ((None, None, None), ["–", "–", "–"]),
    ],
    ids=["usual", "near 1", "small", "large", "without an interval", "zero", "none"],
)
def test_a_ratio_and_its_interval_have_the_decimals_that_tell_them_apart(values, told):
    assert tables.ratios(*values) == told


def test_a_column_of_ratios_has_some_decimals_at_least():
    assert tables.ratios(10.522, 10.435, 10.61, least=3) == ["10.522", "10.435", "10.610"]
