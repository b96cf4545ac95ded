"""Intervals: against scipy's, against plain resampling of rows, and by how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from regraft.evaluation import METRICS, intervals
from regraft.evaluation.answer_kind import fitting_names
from regraft.evaluation.intervals import (
    influence_of_counts,
    interval_of_counts,
    measure_by_rows,
    percentile,
    resample_counts,
    resample_weights,
)
from regraft.evaluation.judge import judge
from regraft.evaluation.measure import count
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import mover, wilson


def rows(n, classes, seed, shift=1.5):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), targets] += shift
    raised = np.exp(logits)
    return targets, raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(confidence):
    for n in (1, 2, 3, 10, 57, 1000):
        for right in {0, 1, n // 2, n - 1, n}:
            expected = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
            assert wilson(right, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_no_rows_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_mover_of_one_proportion_is_wilson_and_of_many_is_their_root_of_squares():
    assert mover(np.array([7]), np.array([9])) == pytest.approx(wilson(7, 9), abs=1e-12)
    (low_a, high_a), (low_b, high_b) = wilson(3, 4), wilson(50, 100)
    mean = (0.75 + 0.5) / 2
    expected = (
        mean - np.hypot(0.75 - low_a, 0.5 - low_b) / 2,
        mean + np.hypot(high_a - 0.75, high_b - 0.5) / 2,
    )
    assert mover(np.array([3, 50]), np.array([4, 100])) == pytest.approx(expected, abs=1e-12)


def test_drawing_cells_is_resampling_rows():
    targets, probabilities = rows(60, 4, 0)
    predicted = probabilities.argmax(axis=1)
    drawn = resample_counts(targets, predicted, 4, 20_000, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    picks = rng.integers(0, 60, size=(20_000, 60))
    for cells, by_row in (
        (drawn.right_RC, [(targets[picks] == c) & (predicted[picks] == c) for c in range(4)]),
        (drawn.truth_RC, [targets[picks] == c for c in range(4)]),
        (drawn.predicted_RC, [predicted[picks] == c for c in range(4)]),
    ):
        expected = np.stack([hit.sum(axis=1) for hit in by_row], axis=1)
        np.testing.assert_allclose(cells.mean(axis=0), expected.mean(axis=0), atol=0.15)
        np.testing.assert_allclose(np.cov(cells.T), np.cov(expected.T), atol=0.5)
    assert (drawn.truth_RC.sum(axis=1) == 60).all()
    assert (drawn.predicted_RC.sum(axis=1) == 60).all()


def test_chunks_of_cells_join_without_a_seam(monkeypatch):
    targets, probabilities = rows(60, 4, 0)
    predicted = probabilities.argmax(axis=1)
    whole = resample_counts(targets, predicted, 4, 50, np.random.default_rng(1))
    monkeypatch.setattr(intervals, "CHUNK_NUMBERS", 40)
    parts = resample_counts(targets, predicted, 4, 50, np.random.default_rng(1))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_draws_with_replacement_in_bounded_chunks(monkeypatch):
    monkeypatch.setattr(intervals, "CHUNK_NUMBERS", 1000)
    chunks = list(resample_weights(100, 2005, np.random.default_rng(0)))
    assert max(chunk.size for chunk in chunks) <= 1000
    weights = np.concatenate(chunks, axis=1)
    assert weights.shape == (100, 2005)
    assert (weights.sum(axis=0) == 100).all()
    assert weights.mean() == 1.0
    assert weights.var() == pytest.approx(0.99, abs=0.02)


def test_one_resample_at_a_time_where_the_rows_fill_a_chunk():
    sizes = [chunk.shape for chunk in resample_weights(2_000_000, 2, np.random.default_rng(0))]
    assert sizes == [(2_000_000, 1), (2_000_000, 1)]


@pytest.mark.parametrize("name", ["log-loss", "roc-auc", "brier"])
def test_row_metrics_agree_with_scipys_bootstrap(name):
    targets, probabilities = rows(150, 2, 3)
    measure = METRICS.get(name)()
    found = measure_by_rows(
        {name: measure}, targets, probabilities, options=JudgeOptions(resamples=4000), rng=np.random.default_rng(0)
    )[name]
    expected = stats.bootstrap(
        (np.arange(150),),
        lambda picked: measure.value(targets[picked], probabilities[picked]),
        vectorized=False,
        n_resamples=3000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


@pytest.mark.parametrize("name", ["log-loss", "roc-auc", "brier"])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_normal_limit_agrees_with_resampling(name, classes, monkeypatch):
    targets, probabilities = rows(3000, classes, 7)
    measure = {name: METRICS.get(name)()}
    made = {"options": JudgeOptions(resamples=3000)}
    resampled = measure_by_rows(measure, targets, probabilities, **made, rng=np.random.default_rng(0))[name]
    monkeypatch.setattr(intervals, "MOST_VISITS", 0)
    limit = measure_by_rows(measure, targets, probabilities, **made, rng=np.random.default_rng(0))[name]
    assert limit != resampled
    width = resampled.high - resampled.low
    assert (limit.low, limit.high) == pytest.approx((resampled.low, resampled.high), abs=0.08 * width)


def test_no_error_in_ten_rows_is_no_proof_of_perfection():
    targets = np.array([0, 1] * 5)
    metrics = judge(fitting_names(METRICS, "classes"), targets, np.eye(2)[targets] * 0.9 + 0.05, ["a", "b"]).metrics
    assert (metrics["accuracy"].low, metrics["accuracy"].high) == pytest.approx((0.692, 1.0), abs=1e-3)  # 0.025 ** 0.1
    for name in ("balanced-accuracy", "macro-f1", "roc-auc"):
        assert 0.4 < metrics[name].low < 0.75, name
        assert metrics[name].high == 1.0


def test_no_right_row_is_no_proof_of_failure():
    targets = np.array([0, 1] * 5)
    metrics = judge(fitting_names(METRICS, "classes"), targets, np.eye(2)[1 - targets] * 0.9 + 0.05, ["a", "b"]).metrics
    for name in ("accuracy", "balanced-accuracy", "macro-f1", "roc-auc"):
        assert metrics[name].low == 0.0
        assert 0.2 < metrics[name].high < 0.6, name


def test_a_small_class_without_errors_still_counts_as_unsure():
    targets = np.array([0] * 95 + [1] * 5)
    predicted = targets.copy()
    predicted[:10] = 1
    observed = count(targets, predicted, 2)
    resampled = resample_counts(targets, predicted, 2, 2000, np.random.default_rng(0))
    measure = METRICS.get("balanced-accuracy")()
    low, high = interval_of_counts(measure, observed, resampled)
    bootstrap = percentile(measure.of_counts(resampled), 0.95)
    assert low < bootstrap[0] - 0.1
    assert high > 0.97


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_rows_give_wide_intervals_and_no_nonsense(n):
    for seed in range(4):
        targets, probabilities = rows(n, 3, seed)
        for name, metric in judge(fitting_names(METRICS, "classes"), targets, probabilities, ["a", "b", "c"]).metrics.items():
            if np.isnan(metric.value) or np.isnan(metric.low):
                assert name in {"roc-auc", "log-loss", "brier"}
                continue
            assert metric.low <= metric.value <= metric.high
            if name == "accuracy":
                assert metric.high - metric.low > 0.5


def test_intervals_hold_the_value_and_stay_in_bounds():
    for seed in range(20):
        targets, probabilities = rows(12, 3, seed, shift=3.0)
        for name, metric in judge(fitting_names(METRICS, "classes"), targets, probabilities, ["a", "b", "c"]).metrics.items():
            bottom, top = METRICS.get(name).bounds
            assert bottom <= metric.low <= metric.value <= metric.high <= top


def test_more_confidence_is_wider():
    targets, probabilities = rows(200, 3, 1)
    narrow = judge(
        fitting_names(METRICS, "classes"), targets, probabilities, list("abc"), options=JudgeOptions(confidence=0.8)
    ).metrics
    wide = judge(
        fitting_names(METRICS, "classes"), targets, probabilities, list("abc"), options=JudgeOptions(confidence=0.99)
    ).metrics
    for name in fitting_names(METRICS, "classes"):
        assert wide[name].low < narrow[name].low
        assert wide[name].high > narrow[name].high


def coverage(shares_CC, n, sets, resamples):
    """Return how often the interval of accuracy and macro F1 holds the truth of a known confusion matrix."""
    classes = len(shares_CC)
    diagonal, given = np.diag(shares_CC), shares_CC.sum(axis=0)
    truth = {"accuracy": diagonal.sum(), "macro-f1": (2 * diagonal / (given + shares_CC.sum(axis=1))).mean()}
    rng = np.random.default_rng(11)
    held = dict.fromkeys(truth, 0)
    for _ in range(sets):
        cells = rng.choice(classes * classes, size=n, p=shares_CC.ravel())
        targets, predicted = cells // classes, cells % classes
        observed = count(targets, predicted, classes)
        resampled = resample_counts(targets, predicted, classes, resamples, rng)
        for name in truth:
            pulls = influence_of_counts(METRICS.get(name)(), targets, predicted, classes)
            low, high = interval_of_counts(METRICS.get(name)(), observed, resampled, influence_U=pulls)
            held[name] += low <= truth[name] <= high
    return {name: hits / sets for name, hits in held.items()}


THREE = np.array([[0.40, 0.06, 0.04], [0.05, 0.22, 0.03], [0.02, 0.03, 0.15]])


@pytest.mark.parametrize("n", [60, 400])
def test_95_percent_means_95_percent(n):
    for name, share in coverage(THREE, n, sets=700, resamples=600).items():
        assert 0.92 <= share <= 0.98, name


@pytest.mark.slow
@pytest.mark.parametrize("n", [40, 150, 1000])
@pytest.mark.parametrize("small", [0.5, 0.2])
def test_95_percent_means_95_percent_in_many_sets(n, small):
    """Never below nominal by more than chance; a rare class may make macro F1 conservative."""
    two = np.array([[0.9 * (1 - small), 0.1 * (1 - small)], [0.15 * small, 0.85 * small]])
    shares = coverage(two, n, sets=2000, resamples=2000)
    assert 0.93 <= shares["accuracy"] <= 0.97
    assert 0.93 <= shares["macro-f1"] <= 0.985


def test_log_loss_and_auc_cover_too():
    big_targets, big_probabilities = rows(400_000, 2, 99)
    truth = {name: METRICS.get(name)().value(big_targets, big_probabilities) for name in ("log-loss", "roc-auc")}
    held = dict.fromkeys(truth, 0)
    measures = {name: METRICS.get(name)() for name in truth}
    for number in range(300):
        part = slice(200 * number, 200 * number + 200)
        found = measure_by_rows(
            measures,
            big_targets[part],
            big_probabilities[part],
            options=JudgeOptions(resamples=400),
            rng=np.random.default_rng(number),
        )
        for name in truth:
            held[name] += found[name].low <= truth[name] <= found[name].high
    for name, hits in held.items():
        assert 0.92 <= hits / 300 <= 0.98, name
