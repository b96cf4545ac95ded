"""One judgement: classes and confusion against scikit-learn, JSON names, notes, refusals."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.errors import DataError, OptionsError
from regraft.evaluation import METRICS
from regraft.evaluation.answer_kind import fitting_names
from regraft.evaluation.judge import ClassRow, Confusion, judge, metric_from_json, metrics_from_json
from regraft.evaluation.measure import Measure
from regraft.evaluation.options import JudgeOptions

ALL = fitting_names(METRICS, "classes")


def rows(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), targets] += 1.5
    raised = np.exp(logits)
    return targets, raised / raised.sum(axis=1, keepdims=True)


def test_importing_the_room_imports_nothing_heavy():
    heavy = ["torch", "transformers", "sklearn", "scipy", "pandas", "rich", "datasets"]
    rooms = "regraft.evaluation.judge, regraft.evaluation.ladder, regraft.evaluation.report"
    script = f"import sys, {rooms}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_classes_and_confusion_equal_scikit_learn():
    targets, probabilities = rows(300, 4)
    predicted = probabilities.argmax(axis=1)
    found = judge(ALL, targets, probabilities, ["a", "b", "c", "d"])
    np.testing.assert_array_equal(found.confusion.matrix(), reference.confusion_matrix(targets, predicted))
    parts = reference.precision_recall_fscore_support(targets, predicted)
    for row, precision, recall, f1, support in zip(found.per_class, *parts, strict=True):
        assert row.precision.value == pytest.approx(precision, abs=1e-12)
        assert row.recall.value == pytest.approx(recall, abs=1e-12)
        assert row.f1.value == pytest.approx(f1, abs=1e-12)
        assert row.support == support == row.recall.n
        assert row.precision.n == (predicted == found.confusion.labels.index(row.label)).sum()
        for metric in (row.precision, row.recall, row.f1):
            assert 0 <= metric.low < metric.value < metric.high <= 1


def test_metrics_come_in_the_order_asked_for_with_the_number_of_rows():
    found = judge(["log-loss", "accuracy"], *rows(50, 2), ["ham", "spam"])
    assert list(found.metrics) == ["log-loss", "accuracy"]
    assert {metric.n for metric in found.metrics.values()} == {50} == {found.n}


def test_json_uses_names_that_scripts_can_type():
    written = judge(ALL, *rows(50, 2), ["ham", "spam"]).to_json()
    names = ["accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "roc_auc", "brier"]
    assert list(written["metrics"]) == names
    assert set(written["metrics"]["macro_f1"]) == {"value", "low", "high", "n"}
    assert list(metrics_from_json(written["metrics"])) == ALL
    assert set(written["per_class"][0]) == {"label", "precision", "recall", "f1", "support"}
    assert written["confusion"]["labels"] == ["ham", "spam"]
    assert np.sum(written["confusion"]["counts"]) == 50


@pytest.mark.filterwarnings("error")
def test_one_class_only_is_judged_with_auc_undefined():
    _, probabilities = rows(30, 3)
    found = judge(ALL, np.ones(30, dtype=int), probabilities, ["a", "b", "c"])
    assert math.isnan(found.metrics["roc-auc"].value)
    assert "roc_auc is undefined: the rows are all of one class" in found.notes
    assert all(math.isfinite(found.metrics[name].value) for name in ALL if name != "roc-auc")
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["metrics"]["roc_auc"] == {"value": None, "low": None, "high": None, "n": 30}
    assert math.isnan(metric_from_json(written["metrics"]["roc_auc"]).value)


def test_a_class_that_never_occurs_is_undefined_not_zero():
    found = judge(ALL, np.array([0, 1]), np.eye(3)[[0, 0]], ["a", "b", "c"])
    row = found.per_class[2]
    assert math.isnan(row.precision.value)
    assert math.isnan(row.recall.value)
    assert math.isnan(row.f1.value)
    assert row.support == 0
    never_given = found.per_class[1]
    assert math.isnan(never_given.precision.value)
    assert never_given.recall.value == never_given.f1.value == 0.0
    assert found.notes == ("roc_auc leaves out the classes without rows: 'c'",)


def test_one_row_is_judged():
    found = judge(ALL, np.array([1]), np.array([[0.2, 0.8]]), ["a", "b"])
    assert found.metrics["accuracy"].value == 1.0
    assert found.metrics["accuracy"].low == pytest.approx(0.025)
    assert "log_loss has no interval: 1 row shows no spread" in found.notes
    json.dumps(found.to_json(), allow_nan=False)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    targets, probabilities = rows(100, 3)
    made = [json.dumps(judge(ALL, targets, probabilities, list("abc"), seed=seed).to_json()) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_single_precision_probabilities_are_fine():
    targets, probabilities = rows(100, 3)
    narrow = judge(ALL, targets.astype(np.int32), probabilities.astype(np.float32), list("abc"))
    wide = judge(ALL, targets, probabilities, list("abc"))
    for name in ALL:
        assert narrow.metrics[name].value == pytest.approx(wide.metrics[name].value, abs=1e-6)


@pytest.mark.parametrize("classes", [200, 201])
def test_a_confusion_matrix_of_many_classes_is_written_sparsely(classes):
    confusion = Confusion(tuple(range(classes)), {(0, 0): 5, (3, classes - 1): 2})
    written = json.loads(json.dumps(confusion.to_json()))
    assert ("counts" in written) == (classes == 200)
    assert Confusion.from_json(written) == confusion


def test_a_class_row_survives_json():
    row = judge(ALL, np.array([0, 1]), np.eye(2), [True, False]).per_class[0]
    assert ClassRow.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert row.label is True


def test_labels_keep_their_type():
    found = judge(["accuracy"], np.array([0, 1]), np.eye(2), [1, 2])
    assert found.to_json()["confusion"]["labels"] == [1, 2]


class Kappa(Measure):
    """A metric from outside: any weighting, no closed form."""

    def values(self, targets_N, outputs_NC, weights_NR=None):
        weights = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR
        predicted = outputs_NC.argmax(axis=1)
        return np.array([reference.cohen_kappa_score(targets_N, predicted, sample_weight=column) for column in weights.T])


def test_a_metric_is_added_with_one_line():
    METRICS.add("kappa", f"{__name__}:Kappa")
    sys.modules[__name__].Kappa = Kappa
    try:
        targets, probabilities = rows(80, 2)
        found = judge(["kappa"], targets, probabilities, ["a", "b"], options=JudgeOptions(resamples=100)).metrics["kappa"]
        assert found.value == pytest.approx(reference.cohen_kappa_score(targets, probabilities.argmax(axis=1)))
        assert found.low < found.value < found.high
    finally:
        METRICS.discard("kappa")


def refused(error, *arguments, **keywords):
    with pytest.raises(error) as caught:
        judge(*arguments, **keywords)
    return str(caught.value)


def test_no_rows_are_refused():
    text = refused(DataError, ["accuracy"], np.array([], dtype=int), np.empty((0, 2)), ["a", "b"])
    assert text.startswith("there are no rows to judge")
    assert "to do: give data with labelled rows" in text


def test_shapes_that_do_not_fit_are_refused():
    assert "3 targets, 2 rows of probabilities" in refused(DataError, ["accuracy"], np.array([0, 1, 0]), np.eye(2), ["a", "b"])
    text = refused(DataError, ["accuracy"], np.array([0, 1]), np.array([0.5, 0.5]), ["a", "b"])
    assert "probabilities of shape (2,)" in text
    assert "expected: targets (N,), probabilities (N, C)" in text


def test_targets_that_are_not_class_indexes_are_refused():
    text = refused(DataError, ["accuracy"], np.array([0.0, 1.0]), np.eye(2), ["a", "b"])
    assert "targets are class indexes" in text
    assert "float64" in text


def test_everything_wrong_with_the_values_is_reported_together():
    probabilities = np.tile([0.5, 0.5], (6, 1))
    probabilities[4, 0] = np.nan
    text = refused(DataError, ["accuracy"], np.array([0, -1, 2, 2, 5, 1]), probabilities, ["a", "b"])
    assert "2 problems:" in text
    assert "targets are out of range" in text
    assert "row 1, 2, 3 and 1 more (counted from 0)" in text
    assert "got: -1" in text
    assert "expected: 0 to 1" in text
    assert "the probabilities of the model are not finite numbers" in text
    assert "row 4 (counted from 0)" in text
    assert "training has diverged" in text


def test_logits_in_place_of_probabilities_are_refused():
    text = refused(DataError, ["accuracy"], np.array([0, 1]), np.array([[0.3, 0.7], [3.1, -2.0]]), ["a", "b"])
    assert "the outputs of the model are not probabilities" in text
    assert "row 1 (counted from 0)" in text
    assert "got: [3.1, -2]" in text
    assert "not logits" in text


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    text = refused(OptionsError, ["acuracy", "macro_f1"], np.array([0, 1]), np.eye(2), ["a", "b"])
    assert "2 problems" in text
    assert "did you mean 'accuracy'?" in text
    assert "'macro-f1'" in text


def test_labels_must_name_the_classes():
    with pytest.raises(ValueError, match="1 labels do not name 2 classes"):
        judge(["accuracy"], np.array([0, 1]), np.eye(2), ["a"])
