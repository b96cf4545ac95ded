"""How honest probabilities are, against numbers written out by hand, scikit-learn and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from regraft.evaluation.kinds_of_classes import Classes, Ranks
from regraft.evaluation.kinds_of_numbers import Quantiles
from regraft.evaluation.kinds_of_sets import LabelSets
from regraft.evaluation.reliability import Bins, _debiased, brier_parts


def test_bins_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    confidences = rng.random(1500)
    right = rng.random(1500) < confidences
    bins = Bins.of(confidences, right)
    share, mean = calibration_curve(right, confidences, n_bins=15, strategy="quantile")
    np.testing.assert_allclose(bins.share_K, share, atol=0.02)
    np.testing.assert_allclose(bins.confidence_K, mean, atol=0.002)
    assert set(bins.rows_K.tolist()) == {100}
    assert (bins.low_K <= bins.confidence_K).all()
    assert (bins.confidence_K <= bins.high_K).all()


def test_equal_confidences_are_in_one_bin_and_few_rows_in_few_bins():
    assert Bins.of(np.full(100, 0.7), np.arange(100) < 60).rows_K.tolist() == [100]
    assert len(Bins.of(np.linspace(0, 1, 25), np.ones(25, bool)).rows_K) == 2
    assert len(Bins.of(np.array([0.5]), np.array([True])).rows_K) == 1


def test_the_plain_error_is_the_mean_gap_by_hand():
    confidences = np.repeat([0.6, 0.9], 10)
    right = np.array([True] * 5 + [False] * 5 + [True] * 10)
    bins = Bins.of(confidences, right)
    assert bins.error() == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


def test_the_debiased_error_takes_off_the_mean_of_the_folded_normal():
    gaps, spreads = np.array([[0.05, -0.02]]), np.array([0.03, 0.04])
    folded = [stats.foldnorm(abs(gap) / spread, scale=spread).mean() for gap, spread in zip(gaps[0], spreads, strict=True)]
    expected = 0.5 * (2 * 0.05 - folded[0]) + 0.5 * (2 * 0.02 - folded[1])
    assert _debiased(gaps, spreads, np.array([0.5, 0.5]))[0] == pytest.approx(expected, abs=1e-12)


def test_of_honest_probabilities_the_debiased_error_is_nearer_to_0():
    rng = np.random.default_rng(1)
    plain, debiased = [], []
    for _ in range(100):
        confidences = rng.uniform(0.5, 1.0, 400)
        bins = Bins.of(confidences, rng.random(400) < confidences)
        plain.append(bins.error())
        debiased.append(bins.debiased_error())
    assert np.mean(plain) > 0.04
    assert np.mean(debiased) < 0.65 * np.mean(plain)


def test_of_probabilities_that_are_off_both_errors_see_how_far():
    rng = np.random.default_rng(2)
    errors, squares, inside = [], [], 0
    for _ in range(200):
        confidences = rng.uniform(0.6, 1.0, 1000)
        bins = Bins.of(confidences, rng.random(1000) < confidences - 0.15)
        errors.append(bins.debiased_error())
        squares.append(bins.rms_error())
        low, high = bins.interval(0.95)
        inside += low <= 0.15 <= high
    assert np.mean(errors) == pytest.approx(0.15, abs=0.005)
    assert np.mean(squares) == pytest.approx(0.15, abs=0.005)
    assert 0.9 <= inside / 200 <= 0.99


def test_the_parts_of_a_brier_score_add_up_and_are_murphys():
    """With one probability a bin, the score is reliability - resolution + uncertainty, and nothing remains."""
    shares = np.repeat([0.2, 0.5, 0.8], 40)
    truth = np.concatenate([np.arange(40) < 10, np.arange(40) < 20, np.arange(40) < 30]).astype(int)
    parts = brier_parts(truth[:, None], shares[:, None], bins=3)
    seen, mean = np.array([0.25, 0.5, 0.75]), 0.5
    assert parts["reliability"] == pytest.approx(np.mean((np.array([0.2, 0.5, 0.8]) - seen) ** 2))
    assert parts["resolution"] == pytest.approx(np.mean((seen - mean) ** 2))
    assert parts["uncertainty"] == pytest.approx(0.25)
    assert parts["within_bins"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_of_classes_are_scikit_learns(classes):
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(classes), 500)
    truth = rng.integers(0, classes, 500)
    found = Classes([f"c{i}" for i in range(classes)]).honesty(truth, shares)
    assert found.figures["log_loss"] == pytest.approx(log_loss(truth, shares))
    binary = brier_score_loss(truth, shares[:, 1]) if classes == 2 else np.square(shares - np.eye(classes)[truth]).sum(1).mean()
    assert found.figures["brier"] == pytest.approx(binary)
    parts = found.figures["brier_parts"]
    whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert whole == pytest.approx(found.figures["brier"])
    assert found.figures["share_right"] == pytest.approx((shares.argmax(1) == truth).mean())
    assert found.intervals["log_loss"][0] < found.figures["log_loss"] < found.intervals["log_loss"][1]
    assert sum(entry["n"] for entry in found.diagram) == 500


def test_of_ranks_the_answer_that_is_given_is_judged():
    shares = np.tile([[0.4, 0.2, 0.4]], (40, 1))
    found = Ranks(["a", "b", "c"]).honesty(np.ones(40, dtype=int), shares)
    assert found.figures["share_right"] == 1.0
    assert found.figures["confidence"] == pytest.approx(0.2), "the median rank, not the most probable one"


def test_figures_of_labels_pool_all_labels():
    rng = np.random.default_rng(4)
    shares = rng.random((300, 3))
    truth = (rng.random((300, 3)) < shares).astype(int)
    found = LabelSets(["a", "b", "c"]).honesty(truth, shares)
    assert found.figures["brier"] == pytest.approx(brier_score_loss(truth.ravel(), shares.ravel()))
    assert found.figures["log_loss"] == pytest.approx(log_loss(truth.ravel(), shares.ravel()))
    assert sum(entry["n"] for entry in found.diagram) == 900


def test_figures_of_quantiles_are_shares_below():
    truth = np.arange(100.0)
    found = Quantiles(["0.1", "0.9"]).honesty(truth, np.tile([[9.0, 79.0]], (100, 1)))
    assert [entry["share_below"] for entry in found.diagram] == [0.1, 0.8]
    assert found.figures["calibration_error"] == pytest.approx(0.05)
