import itertools

import numpy as np
import pytest
from scipy import stats

from context_research.compare.multiplicity import adjust, any_look

LOOKS = (6, 8, 10, 12)


def test_without_gates_it_is_holm():
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.2]) == [0.2]
    assert adjust([]) == []
    assert adjust([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]


def test_one_question_hands_all_to_what_follows_it():
    """A fixed sequence (Maurer et al. 1995): each at the full level, up to the first that is not decided."""
    assert adjust([0.01, 0.04, 0.03], [None, 0, 1]) == pytest.approx([0.01, 0.04, 0.04])


def test_a_decided_question_hands_half_to_what_follows_and_half_to_the_others():
    """Two questions have α/2 each. The first decides: its tail gets α/4, the other question α/2 + α/4."""
    first, other, tail = adjust([0.001, 0.03, 0.01], [None, None, 0])
    assert first == pytest.approx(0.002)
    assert tail == pytest.approx(4 * 0.01)
    assert other == pytest.approx(max(0.03 / 0.75, tail))


def test_nothing_that_follows_is_asked_before():
    """However small its p is."""
    first, tail = adjust([0.2, 1e-9], [None, 0])
    assert tail == first == 0.2


def test_a_smaller_p_never_makes_another_larger():
    generator = np.random.default_rng(0)
    after = [None, None, None, 0, 1, 3]
    for _ in range(50):
        p = generator.random(6) ** 3
        before = adjust(p.tolist(), after)
        p[generator.integers(6)] *= 0.5
        assert all(now <= then + 1e-12 for now, then in zip(adjust(p.tolist(), after), before, strict=True))


@pytest.mark.parametrize("after", [[None] * 4, [None, None, 0, 1], [None, 0, 1, 2]], ids=["holm", "gated", "sequence"])
def test_any_true_null_is_rejected_in_at_most_5_percent(after):
    """Strong control: whichever are true, the others being certain. 1,500 trials, three standard errors of room."""
    generator = np.random.default_rng(1)
    for effects in itertools.product((False, True), repeat=4):
        if all(effects):
            continue
        alarms = 0
        for p in generator.random((1500, 4)):
            p[list(effects)] = 1e-12
            alarms += any(
                value <= 0.05 for value, real in zip(adjust(p.tolist(), after), effects, strict=True) if not real
            )
        assert alarms / 1500 <= 0.05 + 3 * 0.0056


def test_one_look_costs_nothing():
    assert any_look(0.03, ()) == any_look(0.03, (12,)) == 0.03


def test_looks_cost_less_than_their_number_and_more_the_rarer_the_p():
    costs = [any_look(p, LOOKS) / p for p in (0.05, 0.01, 0.001, 1e-5)]
    assert costs == sorted(costs)
    assert 2 < costs[0] < costs[-1] < 4


def test_it_is_what_identical_arms_show_at_any_of_the_looks():
    generator = np.random.default_rng(5)
    noise = generator.standard_normal((20_000, 12))
    least = np.ones(20_000)
    for look in LOOKS:
        least = np.minimum(least, stats.ttest_1samp(noise[:, :look], 0, axis=1).pvalue)
    for p in (0.05, 0.02, 0.005):
        assert any_look(p, LOOKS) == pytest.approx((least <= p).mean(), abs=0.005)
