"""Sets, intervals, thresholds and exact bounds against closed forms, scipy and written-out loops."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from regraft.calibration.abstain import Thresholds
from regraft.calibration.adaptive_sets import AdaptiveOptions, AdaptiveSets, RegularisedOptions, RegularisedSets
from regraft.calibration.binomial import at_most, exact
from regraft.calibration.intervals import IntervalOptions, QuantileResidual, Residual
from regraft.calibration.score import MOST_KEPT, Conformal, Ranked

APS = AdaptiveSets(AdaptiveOptions())


def written_out(shares, label, weight=0.0, rank=0):
    """The score of one class of one row, as the papers write it, without randomising."""
    order = sorted(range(len(shares)), key=lambda c: (-shares[c], c))
    place = order.index(label)
    return sum(shares[c] for c in order[:place]) + weight * max(0, place + 1 - rank)


@pytest.mark.parametrize(("weight", "rank"), [(0.0, 0), (0.1, 2), (0.3, 0)])
def test_scores_of_sets_are_those_of_the_papers(weight, rank):
    rng = np.random.default_rng(0)
    shares = softmax(rng.normal(size=(40, 7)), axis=1)
    shares[3] = 1 / 7  # all equal
    truth = rng.integers(0, 7, 40)
    score = RegularisedSets(RegularisedOptions(weight=weight, rank=rank)) if weight else APS
    expected = [written_out(row.tolist(), label, weight, rank) for row, label in zip(shares, truth.tolist(), strict=True)]
    np.testing.assert_allclose(score.of_truth(shares, truth), expected, atol=1e-12)


def test_the_most_probable_class_is_in_every_set():
    shares = softmax(np.random.default_rng(1).normal(size=(50, 5)), axis=1)
    sets = APS.sets(shares, np.zeros(5))
    assert (sets.sum(axis=1) == 1).all()
    assert np.array_equal(sets.argmax(axis=1), shares.argmax(axis=1))


@pytest.mark.parametrize("rows", [9, 10, 19, 100, 999])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_the_limit_is_the_right_order_statistic(rows, coverage):
    values = np.random.default_rng(rows).normal(size=rows)
    place = math.ceil(round((rows + 1) * coverage, 9))
    limit = Ranked.of(values).limit(coverage)
    assert limit == (np.inf if place > rows else np.sort(values)[place - 1])


def test_many_scores_are_thinned_to_the_safe_side():
    values = np.random.default_rng(0).random(50_001)
    thinned, ordered = Ranked.of(values), np.sort(values)
    assert len(thinned.values) <= MOST_KEPT
    assert thinned.values[-1] == ordered[-1]
    for coverage in (0.5, 0.9, 0.99, 0.9999):
        exact_limit = ordered[math.ceil(50_002 * coverage) - 1]
        assert exact_limit <= thinned.limit(coverage) <= ordered[min(50_000, math.ceil(50_002 * coverage) + 60)]
    assert Ranked.from_json(thinned.to_json()) == thinned


@pytest.mark.parametrize("values", [{"rows": 2, "values": [2.0, 1.0]}, {"rows": 3, "values": [1.0]}])
def test_scores_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match="in order"):
        Ranked.from_json(values)


def test_each_class_can_be_covered_by_itself():
    """The rare class is hard: all rows together cover it badly, each by itself as often as wanted."""
    rng = np.random.default_rng(2)
    seen = {True: [], False: []}
    for _ in range(40):
        truth = (rng.random(1500) < 0.1).astype(int)
        logits = np.stack([np.full(1500, 1.5), rng.normal(size=1500) + 1.5 * truth], axis=1)
        shares = softmax(logits, axis=1)
        for per_class in (True, False):
            known = Conformal.of(APS, shares[:1000], truth[:1000], per_class=per_class)
            inside = known.sets(shares[1000:], 0.9)[np.arange(500), truth[1000:]]
            seen[per_class].append(inside[truth[1000:] == 1].mean())
    assert np.mean(seen[True]) >= 0.88
    assert np.mean(seen[False]) < 0.8


def test_a_class_with_too_few_rows_is_in_every_set():
    shares = softmax(np.random.default_rng(3).normal(size=(60, 2)), axis=1)
    truth = np.array([0] * 57 + [1] * 3)
    known = Conformal.of(APS, shares, truth, per_class=True)
    assert known.short_of(0.9) == [1]
    assert known.sets(shares, 0.9)[:, 1].all()


def test_intervals_are_those_of_the_papers():
    truth = np.array([1.0, 5.0, 2.0])
    one = Residual(IntervalOptions())
    np.testing.assert_allclose(one.of_truth(np.array([[0.0], [7.0], [2.0]]), truth), [1.0, 2.0, 0.0])
    np.testing.assert_allclose(one.intervals(np.array([[3.0]]), 2.0), [[1.0, 5.0]])
    cqr = QuantileResidual(IntervalOptions())
    quantiles = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    np.testing.assert_allclose(cqr.of_truth(quantiles, truth), [-1.0, 3.0, 1.0])
    np.testing.assert_allclose(cqr.intervals(quantiles[:1], 0.5), [[-0.5, 2.5]])
    np.testing.assert_allclose(cqr.intervals(quantiles[:1], -3.0), [[1.0, 1.0]], err_msg="never upside down")


@pytest.mark.parametrize(("wrong", "rows"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 50), (997, 1000), (50, 100_000)])
def test_exact_bounds_are_scipys(wrong, rows):
    reference = stats.binomtest(wrong, rows).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(exact(wrong, rows), (reference.low, reference.high), atol=1e-9)
    for share in (0.001, 0.02, 0.3, 0.99):
        assert at_most(wrong, rows, share) == pytest.approx(stats.binom.cdf(wrong, rows, share), abs=1e-9)


def test_thresholds_count_rows_of_equal_confidence_together():
    table = Thresholds.of(np.array([0.9, 0.8, 0.8, 0.6]), np.array([True, True, False, False]))
    assert table.confidences_K == (0.9, 0.8, 0.6)
    assert table.answered_K == (1, 3, 4)
    assert table.wrong_K == (0, 1, 2)
    assert Thresholds.from_json(table.to_json()) == table
    points = table.curve()
    assert [point["coverage"] for point in points] == [0.25, 0.75, 1.0]
    assert points[1]["risk"] == pytest.approx(1 / 3)
    reference = stats.binomtest(1, 3).proportion_ci(0.95, method="exact")
    assert (points[1]["risk_low"], points[1]["risk_high"]) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_a_threshold_is_the_last_before_the_first_that_cannot_be_promised():
    confidences = np.linspace(1.0, 0.0, 1000)
    right = np.ones(1000, dtype=bool)
    right[700:] = False
    table = Thresholds.of(confidences, right)
    found = table.threshold(0.95)
    passing = [
        threshold
        for threshold, answered, wrong in zip(table.confidences_K, table.answered_K, table.wrong_K, strict=True)
        if stats.binom.cdf(wrong, answered, 0.05) <= 0.05
    ]
    assert found == min(passing)
    assert Thresholds.of(confidences[:20], right[:20]).threshold(0.95) is None, "20 right rows promise no 95 %"


def test_what_is_promised_holds_in_nineteen_of_twenty_fits():
    """Rows are right with exactly their confidence, so that the true precision above a threshold is known."""
    rng = np.random.default_rng(7)
    broken = offered = 0
    for _ in range(400):
        confidences = rng.uniform(0.5, 1.0, 600)
        table = Thresholds.of(confidences, rng.random(600) < confidences)
        threshold = table.threshold(0.9)
        if threshold is not None:
            offered += 1
            broken += (threshold + 1.0) / 2 < 0.9
    assert offered > 100
    assert broken <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


@pytest.mark.parametrize(
    "change", [{"wrong": [5, 1]}, {"answered": [3, 2]}, {"confidences": [0.1, 0.9]}, {"confidences": [float("nan"), 0.0]}]
)
def test_thresholds_that_cannot_be_are_refused(change):
    values = {"rows": 4, "confidences": [0.9, 0.1], "answered": [1, 4], "wrong": [0, 1], **change}
    with pytest.raises(ValueError):  # noqa: PT011 - zip says it for lists of other lengths
        Thresholds.from_json(values)
