"""The metrics of classification.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.evaluation.measure import CountMeasure, Counts, Measure, mean_of_defined, ratio
from regraft.types import Array, FloatArray, Label

_ONE_OF_SEVERAL = frozenset({"classes", "ranks"})
_DECISIONS = frozenset({"classes", "ranks", "label-sets"})


class Accuracy(CountMeasure):
    """Share of rows that were given their true class."""

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL

    def of_counts(self, counts: Counts) -> FloatArray:
        """Return right rows over all rows (R,)."""
        return ratio(counts.right_RC.sum(axis=1), counts.truth_RC.sum(axis=1))

    def proportions(self, counts: Counts) -> tuple[Array, Array]:
        """Return right rows of all rows."""
        return counts.right_RC.sum(axis=1), counts.truth_RC.sum(axis=1)


class MicroF1(CountMeasure):
    """F1 of the decisions of all classes pooled; with one label a row it equals the accuracy."""

    judges: ClassVar[frozenset[str]] = _DECISIONS

    def of_counts(self, counts: Counts) -> FloatArray:
        """Return 2 TP / (2 TP + FP + FN) with each summed over the classes (R,)."""
        return ratio(2 * counts.right_RC.sum(axis=1), counts.truth_RC.sum(axis=1) + counts.predicted_RC.sum(axis=1))

    def proportions(self, counts: Counts) -> tuple[Array, Array]:
        """Return right rows of all rows."""
        return counts.right_RC.sum(axis=1), counts.truth_RC.sum(axis=1)


class BalancedAccuracy(CountMeasure):
    """Mean recall over the classes that have rows (Brodersen et al. 2010, "The balanced accuracy and its posterior")."""

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL

    def of_counts(self, counts: Counts) -> FloatArray:
        """Return the mean over classes with rows of right / true rows (R,)."""
        return mean_of_defined(ratio(counts.right_RC, counts.truth_RC))

    def proportions(self, counts: Counts) -> tuple[Array, Array]:
        """Return right rows of the rows of each class."""
        return _defined(counts.right_RC[0], counts.truth_RC[0])


class MacroF1(CountMeasure):
    """Mean F1 over the classes that have rows or were predicted (Opitz & Burst 2019, "Macro F1 and Macro F1")."""

    judges: ClassVar[frozenset[str]] = _DECISIONS

    def of_counts(self, counts: Counts) -> FloatArray:
        """Return the mean over those classes of 2 TP / (2 TP + FP + FN) (R,)."""
        return mean_of_defined(f1(counts))

    def proportions(self, counts: Counts) -> tuple[Array, Array]:
        """Return right rows of the mean of true and predicted rows of each class."""
        return _defined(counts.right_RC[0], (counts.truth_RC[0] + counts.predicted_RC[0]) / 2)


class MeanLoss(Measure):
    """A metric that is the mean of one loss a row."""

    higher_is_better: ClassVar[bool | None] = False

    @abstractmethod
    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the loss of each row (N,)."""

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the weighted mean loss; see `Measure.values`."""
        losses_N = self.losses(targets_N, outputs_NC)
        if weights_NR is None:
            return np.array([losses_N.mean()])
        return ratio(losses_N @ weights_NR, weights_NR.sum(axis=0))

    def of_rows(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray | None:
        """Return the loss of each row (N,), unless the metric is more than their mean."""
        return self.losses(targets_N, outputs_NC) if type(self).values is MeanLoss.values else None

    def influence(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the loss of each row minus the mean loss."""
        losses_N = self.losses(targets_N, outputs_NC)
        pulls_N: FloatArray = losses_N - losses_N.mean()
        return pulls_N


class LogLoss(MeanLoss):
    """Mean of -log of the probability given to the true class (Good 1952), probabilities kept 2e-16 off 0 and 1."""

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL
    bounds: ClassVar[tuple[float, float]] = (0.0, np.inf)

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the loss of each row (N,)."""
        tiny = np.finfo(np.float64).eps
        true_N = outputs_NC[np.arange(len(targets_N)), targets_N]
        return -np.log(np.clip(true_N.astype(np.float64), tiny, 1.0 - tiny))


class Brier(MeanLoss):
    """Mean squared distance of the probabilities from the truth (Brier 1950).

    The sum over classes, 0 to 2; halved for two classes, where it is the mean squared error of the probability.
    """

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the loss of each row (N,)."""
        outputs_NC = outputs_NC.astype(np.float64)
        true_N = outputs_NC[np.arange(len(targets_N)), targets_N]
        rest_N = np.square(outputs_NC).sum(axis=1) - np.square(true_N)
        losses_N: FloatArray = (rest_N + np.square(1.0 - true_N)) * (0.5 if outputs_NC.shape[1] == 2 else 1.0)
        return losses_N


class RocAuc(Measure):
    """Chance that a row of a class gets a higher probability for it than a row of another class; ties count one half.

    Two classes: of class 1. More: the unweighted mean over classes, each against the rest. A class
    without rows, or that all rows have, is left out and noted; with none left the metric is undefined.
    """

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the Mann-Whitney statistic over pairs; see `Measure.values`."""
        weights_NR = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR.astype(np.float64, copy=False)
        columns = [
            _weighted_auc(targets_N == label, outputs_NC[:, label], weights_NR)
            for label in self._classes(targets_N, outputs_NC.shape[1])
        ]
        if not columns:
            return np.full(weights_NR.shape[1], np.nan)
        return mean_of_defined(np.stack(columns, axis=1))

    def influence(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the structural components of DeLong et al. 1988, averaged over the classes."""
        total_N = np.zeros(len(targets_N))
        classes = self._classes(targets_N, outputs_NC.shape[1])
        for label in classes:
            total_N += _auc_influence(targets_N == label, outputs_NC[:, label])
        return total_N / max(len(classes), 1)

    def visits(self, rows: int, classes: int) -> int:
        """Return rows times the classes that are looked at one by one."""
        return rows * (1 if classes == 2 else classes)

    def parts(self, targets_N: Array, classes: int) -> Array:
        """Return for each class the smaller of its rows and the other rows."""
        counts_C = np.bincount(targets_N, minlength=classes)[self._classes(targets_N, classes)]
        return np.minimum(counts_C, len(targets_N) - counts_C)

    def note(self, targets_N: Array, labels: Sequence[Label]) -> str:
        """Say that the metric is undefined, or which classes it leaves out."""
        counts_C = np.bincount(targets_N, minlength=len(labels))
        if counts_C.max(initial=0) == len(targets_N):
            return "roc_auc is undefined: the rows are all of one class"
        missing = [f"'{label}'" for label, rows in zip(labels, counts_C, strict=True) if rows == 0]
        if not missing:
            return ""
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        return f"roc_auc leaves out the classes without rows: {', '.join(missing[:10])}{more}"

    def _classes(self, targets_N: Array, classes: int) -> list[int]:
        counts_C = np.bincount(targets_N, minlength=classes)
        usable = [label for label in range(classes) if 0 < counts_C[label] < len(targets_N)]
        return usable[-1:] if classes == 2 else usable


def f1(counts: Counts) -> FloatArray:
    """Return F1 of each resample and class (R, C); NaN for a class without rows that was never predicted.

    Source: van Rijsbergen 1979, "Information retrieval", chapter 7, with equal weight to precision and recall.
    """
    return ratio(2 * counts.right_RC, counts.truth_RC + counts.predicted_RC)


def _defined(right_C: Array, rows_C: Array) -> tuple[Array, Array]:
    return right_C[rows_C > 0], rows_C[rows_C > 0]


def _tie_groups(sorted_N: FloatArray) -> Array:
    """Return where each run of equal values starts."""
    return np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])


def _weighted_auc(positive_N: Array, scores_N: FloatArray, weights_NR: FloatArray) -> FloatArray:
    """Return P(score of a positive > score of a negative) + P(equal) / 2 under each weighting; exact for integer weights."""
    order_N = np.argsort(scores_N)
    starts_G = _tie_groups(scores_N[order_N])
    sorted_NR = weights_NR[order_N]
    positive_GR = sorted_NR * positive_N[order_N][:, None]
    negative_GR = sorted_NR - positive_GR
    if len(starts_G) < len(order_N):
        positive_GR = np.add.reduceat(positive_GR, starts_G, axis=0)
        negative_GR = np.add.reduceat(negative_GR, starts_G, axis=0)
    below_GR = np.cumsum(negative_GR, axis=0)
    pairs_R = positive_GR.sum(axis=0) * below_GR[-1]
    below_GR -= 0.5 * negative_GR
    return ratio(np.einsum("gr,gr->r", positive_GR, below_GR), pairs_R)


def _auc_influence(positive_N: Array, scores_N: FloatArray) -> FloatArray:
    """Return each row's influence on one class's AUC, mean 0."""
    order_N = np.argsort(scores_N)
    starts_G = _tie_groups(scores_N[order_N])
    sizes_G = np.diff(np.r_[starts_G, len(order_N)])
    positive_G = np.add.reduceat(positive_N[order_N].astype(np.float64), starts_G)
    negative_G = sizes_G - positive_G
    positives, negatives = positive_G.sum(), negative_G.sum()
    below_G = (np.cumsum(negative_G) - 0.5 * negative_G) / negatives
    above_G = 1.0 - (np.cumsum(positive_G) - 0.5 * positive_G) / positives
    area = float(positive_G @ below_G / positives)
    share = positives / len(order_N)
    sorted_N = np.where(
        positive_N[order_N],
        (np.repeat(below_G, sizes_G) - area) / share,
        (np.repeat(above_G, sizes_G) - area) / (1.0 - share),
    )
    influence_N = np.empty(len(order_N))
    influence_N[order_N] = sorted_N
    return influence_N
