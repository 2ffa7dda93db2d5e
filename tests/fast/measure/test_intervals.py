import pytest

from context_research.measure.intervals import covered


@pytest.mark.parametrize(
    ("spans", "at_least", "seconds"),
    [
        pytest.param([], 1, 0, id="none"),
        pytest.param([(0, 2), (1, 3)], 1, 3, id="overlap counts once"),
        pytest.param([(0, 2), (1, 3)], 2, 1, id="both"),
        pytest.param([(-5, 1), (9, 20)], 1, 2, id="cut to the window"),
        pytest.param([(20, 30)], 1, 0, id="outside"),
        pytest.param([(None, 5), (5, None)], 1, 0, id="unbounded"),
        pytest.param([(0, 2), (2, 4)], 1, 4, id="in turn"),
    ],
)
def test_covered_seconds_of_a_window_from_0_to_10(spans, at_least, seconds):
    assert covered(spans, 0.0, 10.0, at_least) == seconds
