"""Intervals of shares against scipy's, and Student's t against its table."""

import numpy as np
import pytest
from scipy import stats

from regraft.evaluation.holm import holm
from regraft.evaluation.shares import FEW, clopper_pearson, proportion, quantile_of_t, wilson


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_exact_interval_equals_scipys(confidence):
    for rows in (1, 2, 7, 30, 1000, 40_000):
        for right in {0, 1, rows // 3, rows - 1, rows}:
            expected = stats.binomtest(right, rows).proportion_ci(confidence, method="exact")
            assert clopper_pearson(right, rows, confidence) == pytest.approx((expected.low, expected.high), abs=1e-10)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_the_exact_interval_stands_where_few_are_right_or_wrong():
    for right in (0, 1, FEW - 1, 100 - FEW + 1, 100):
        assert proportion(right, 100) == clopper_pearson(right, 100)
    for right in (FEW, 50, 100 - FEW):
        assert proportion(right, 100) == wilson(right, 100)


@pytest.mark.parametrize("rows", [20, 50, 200, 500])
def test_a_proportion_is_covered_at_every_share(rows):
    """Not simulated: the sum over all outcomes of their probability, where the interval holds the share."""
    right = np.arange(rows + 1)
    ends = np.array([proportion(int(count), rows) for count in right])
    alone = np.array([wilson(int(count), rows) for count in right])
    found, before = [], []
    for share in np.linspace(0.5, 0.999, 200):
        chance = stats.binom.pmf(right, rows, share)
        found.append(chance[(ends[:, 0] <= share) & (share <= ends[:, 1])].sum())
        before.append(chance[(alone[:, 0] <= share) & (share <= alone[:, 1])].sum())
    assert min(found) > 0.92 > min(before) or rows > 100
    assert 0.945 < np.mean(found) < 0.97


@pytest.mark.parametrize("freedom", [1, 2, 4, 5, 9, 30, 1000])
def test_students_t_equals_scipys(freedom):
    for probability in (0.6, 0.9, 0.975, 0.995):
        expected = stats.t.ppf(probability, freedom)
        assert quantile_of_t(probability, freedom) == pytest.approx(expected, rel=4e-3)
        assert quantile_of_t(1 - probability, freedom) == pytest.approx(-expected, rel=4e-3)


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


@pytest.mark.parametrize("tests", [2, 5])
def test_holms_correction_keeps_the_chance_of_any_false_alarm(tests):
    p_values = np.random.default_rng(0).random((4000, tests))
    any_false = np.mean([holm(row).min() < 0.05 for row in p_values])
    assert any_false == pytest.approx(0.05, abs=0.01)
    assert np.mean((p_values < 0.05).any(axis=1)) > 0.09
