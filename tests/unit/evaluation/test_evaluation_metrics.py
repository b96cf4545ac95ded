"""Every metric against scikit-learn, and every weighting against rows that are really repeated."""

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.evaluation import METRICS
from regraft.evaluation.answer_kind import fitting_names
from regraft.evaluation.measure import CountMeasure, decide

EXACT = 1e-12


def rows(n, classes, seed, tied=False):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), targets] += 1.0
    if tied:
        logits = np.round(logits)
    raised = np.exp(logits)
    return targets, raised / raised.sum(axis=1, keepdims=True)


def by_sklearn(name, targets, probabilities, weights=None):
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    labels = np.arange(classes)
    if name == "accuracy":
        return reference.accuracy_score(targets, predicted, sample_weight=weights)
    if name == "balanced-accuracy":
        return reference.balanced_accuracy_score(targets, predicted, sample_weight=weights)
    if name == "macro-f1":
        return reference.f1_score(targets, predicted, average="macro", sample_weight=weights)
    if name == "micro-f1":
        return reference.f1_score(targets, predicted, average="micro", sample_weight=weights)
    if name == "log-loss":
        return reference.log_loss(targets, probabilities, labels=labels, sample_weight=weights)
    if name == "brier":
        return reference.brier_score_loss(
            targets, probabilities if classes > 2 else probabilities[:, 1], labels=labels, sample_weight=weights
        )
    assert name == "roc-auc"
    if classes == 2:
        return reference.roc_auc_score(targets, probabilities[:, 1], sample_weight=weights)
    one_by_one = [reference.roc_auc_score(targets == c, probabilities[:, c], sample_weight=weights) for c in range(classes)]
    return float(np.mean(one_by_one))


def measure(name):
    return METRICS.get(name)()


@pytest.mark.parametrize("name", fitting_names(METRICS, "classes"))
@pytest.mark.parametrize(
    ("n", "classes", "tied"), [(50, 2, False), (80, 2, True), (300, 5, False), (300, 5, True), (40, 3, True)]
)
def test_a_metric_equals_scikit_learn(name, n, classes, tied):
    for seed in range(5):
        targets, probabilities = rows(n, classes, seed, tied)
        assert measure(name).value(targets, probabilities) == pytest.approx(by_sklearn(name, targets, probabilities), abs=EXACT)


def test_multiclass_auc_equals_the_macro_average_of_scikit_learn():
    targets, probabilities = rows(400, 4, 3, tied=True)
    expected = reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert measure("roc-auc").value(targets, probabilities) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("name", fitting_names(METRICS, "classes"))
@pytest.mark.parametrize(("classes", "tied"), [(2, False), (2, True), (4, True)])
def test_weights_are_repeated_rows(name, classes, tied):
    targets, probabilities = rows(60, classes, 1, tied)
    weights = np.random.default_rng(2).integers(0, 4, size=(60, 3)).astype(np.float64)
    found = measure(name).values(targets, probabilities, weights)
    assert found.shape == (3,)
    for column in range(3):
        repeated = np.repeat(np.arange(60), weights[:, column].astype(int))
        again = measure(name).value(targets[repeated], probabilities[repeated])
        assert found[column] == pytest.approx(again, abs=EXACT)
        used = weights[:, column] > 0
        expected = by_sklearn(name, targets[used], probabilities[used], weights[used, column])
        assert found[column] == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("name", fitting_names(METRICS, "classes"))
def test_perfect_and_always_wrong_rows_give_the_bounds(name):
    targets = np.array([0, 1, 0, 1, 1])
    perfect, wrong = np.eye(2)[targets], np.eye(2)[1 - targets]
    best, worst = measure(name).value(targets, perfect), measure(name).value(targets, wrong)
    assert (best > worst) == measure(name).higher_is_better
    if measure(name).higher_is_better:
        assert (best, worst) == (1.0, 0.0)
    else:
        assert best == pytest.approx(0.0, abs=EXACT)
        assert worst == pytest.approx(by_sklearn(name, targets, wrong), abs=EXACT)


def test_a_probability_of_zero_for_the_truth_is_clipped_as_in_scikit_learn():
    targets, probabilities = np.array([0, 1]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert measure("log-loss").value(targets, probabilities) == pytest.approx(
        reference.log_loss(targets, probabilities), abs=EXACT
    )
    assert np.isfinite(measure("log-loss").value(targets, probabilities))


def test_all_scores_equal_is_an_auc_of_one_half():
    targets = np.array([0, 1, 1, 0, 2])
    assert measure("roc-auc").value(targets, np.full((5, 3), 1 / 3)) == 0.5


def test_auc_of_one_class_is_undefined_and_says_so():
    targets, probabilities = np.zeros(4, dtype=int), np.full((4, 2), 0.5)
    assert np.isnan(measure("roc-auc").value(targets, probabilities))
    assert measure("roc-auc").note(targets, ["ham", "spam"]) == "roc_auc is undefined: the rows are all of one class"


def test_auc_leaves_out_a_class_without_rows_and_says_so():
    targets, probabilities = rows(60, 4, 0)
    kept = targets != 2
    targets, probabilities = targets[kept], probabilities[kept]
    expected = np.mean([reference.roc_auc_score(targets == c, probabilities[:, c]) for c in (0, 1, 3)])
    assert measure("roc-auc").value(targets, probabilities) == pytest.approx(expected, abs=EXACT)
    note = measure("roc-auc").note(targets, ["a", "b", "c", "d"])
    assert note == "roc_auc leaves out the classes without rows: 'c'"
    assert measure("roc-auc").note(np.arange(4), ["a", "b", "c", "d"]) == ""


def test_many_missing_classes_are_counted_not_listed():
    note = measure("roc-auc").note(np.array([0, 1]), [f"c{i}" for i in range(20)])
    assert note.endswith("'c11' and 8 more")


def test_macro_metrics_average_over_classes_that_occur():
    targets, probabilities = np.array([0, 0, 1, 1]), np.eye(4)[[0, 0, 1, 3]]
    assert measure("balanced-accuracy").value(targets, probabilities) == pytest.approx((1 + 0.5) / 2)
    assert measure("macro-f1").value(targets, probabilities) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_the_lowest_index_wins_a_tie():
    assert decide(np.array([[0.5, 0.5], [0.2, 0.8], [1 / 3, 1 / 3]])).tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["log-loss", "brier", "roc-auc"])
@pytest.mark.parametrize("classes", [2, 4])
def test_influence_is_the_derivative_by_the_weight_of_a_row(name, classes):
    targets, probabilities = rows(70, classes, 4, tied=True)
    found = measure(name).influence(targets, probabilities)
    assert found.mean() == pytest.approx(0.0, abs=EXACT)
    # One row counted 1 + h times changes the metric by h / n of its influence.
    step, n = 1e-5, len(targets)
    weights = np.ones((n, n)) + step * np.eye(n)
    slope = (measure(name).values(targets, probabilities, weights) - measure(name).value(targets, probabilities)) / step * n
    np.testing.assert_allclose(found, slope, atol=1e-3 * np.abs(slope).max())


def test_the_influence_of_auc_gives_the_variance_of_delong():
    targets, probabilities = rows(90, 2, 5, tied=True)
    scores = probabilities[:, 1]
    positive, negative = scores[targets == 1], scores[targets == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    by_positive, by_negative = wins.mean(axis=1), wins.mean(axis=0)
    # DeLong et al. 1988, with the variances over m and n instead of m - 1 and n - 1.
    expected = by_positive.var() / len(positive) + by_negative.var() / len(negative)
    influence = measure("roc-auc").influence(targets, probabilities)
    assert np.square(influence).mean() / len(targets) == pytest.approx(expected, rel=1e-10)


def test_metrics_of_decisions_do_not_look_at_confidence():
    targets, probabilities = rows(100, 3, 6)
    sure = np.eye(3)[probabilities.argmax(axis=1)]
    for name in fitting_names(METRICS, "classes"):
        if issubclass(METRICS.get(name), CountMeasure):
            assert measure(name).value(targets, probabilities) == measure(name).value(targets, sure)
