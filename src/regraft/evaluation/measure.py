"""What a metric is, and the counts that many of them are made of.

A measure is computed on targets and on what `Task.probabilities` returns; for classification class probabilities. The same code
computes it on the rows as they are and on many weightings of them at once, which is what a bootstrap needs.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np

from regraft.types import Array, FloatArray, Label

if TYPE_CHECKING:
    from regraft.evaluation.answer_kind import AnswerKind

Tally = Callable[[Array, FloatArray, Array | None], "Counts"]
"""Counts right, true and predicted rows of each class: targets, outputs and, if any, weights (N, R) of the rows."""


class Measure(ABC):
    """Compute one metric. One class a metric, one line each in the table `METRICS`.

    Args:
        columns: Names of the columns of what is judged; empty where it has none.
        tally: Counts decisions, for metrics that are made of counts; takes the class of the largest probability if not given.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"classes"})
    """Registered names of the kinds of answers (`ANSWERS`) that it is computed on."""
    higher_is_better: ClassVar[bool | None] = True
    """None where neither is: the value should be near a nominal one, which `note` names."""
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Smallest and largest possible value; an interval never leaves them."""
    of_decisions: ClassVar[bool] = False
    """Whether only what a row is given counts, and not with which probability."""
    in_units: ClassVar[bool] = False
    """Whether the value is in the unit of the target, so that it may be of any size."""

    def __init__(self, columns: Sequence[str] = (), tally: Tally | None = None) -> None:
        self.columns = tuple(columns)
        self.tally: Tally = tally or count_classes

    @classmethod
    def of(cls, kind: AnswerKind) -> Self:
        """Return the metric for answers of a kind, with the names of their columns."""
        return cls(tuple(map(str, kind.columns)), kind.tally)

    @abstractmethod
    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the metric under each weighting of the rows.

        Args:
            targets_N: What is true; for classes the index, 0 to C - 1; for label sets (N, C), for numbers (N,).
            outputs_NC: What `Task.probabilities` returned; for numbers (N, 1), in the unit of the target.
            weights_NR: How often each row counts in each resample, integers >= 0; every row once if not given.

        Returns:
            One value a resample (R,), or (1,) without weights; NaN where the metric is undefined.
        """

    def value(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return the metric on the rows as they are; NaN where it is undefined."""
        return float(self.values(targets_N, outputs_NC)[0])

    def influence(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray | None:
        """Return how far each row pulls the metric (mean 0), or nothing where that has no closed form.

        The metric's variance is the mean square of these over N (Hampel 1974, "The influence curve and its role in robust
        estimation"). It takes the place of resampling where there are very many rows.
        """
        return None

    def of_rows(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray | None:
        """Return the value of each row (N,) where the metric is their mean, else nothing."""
        return None

    def mixed(self, targets_N: Array, outputs: tuple[FloatArray, FloatArray], second_NR: FloatArray) -> FloatArray:
        """Return the metric where each row has one of two outputs (R,), which a paired test exchanges.

        As it stands here every row stands there twice, with the weight 0 or 1: right for a metric in which each row counts by
        its own target and output.

        Args:
            targets_N: What is true.
            outputs: What the two models gave.
            second_NR: 1 where the row has the second output, else 0, for each of R choices.
        """
        twice_NC, weights_NR = np.concatenate(outputs), np.concatenate([1.0 - second_NR, second_NR])
        return self.values(np.concatenate([targets_N, targets_N]), twice_NC, weights_NR)

    def visits(self, rows: int, classes: int) -> int:
        """Return how many numbers one resample looks at; decides between resampling and `influence`."""
        return rows

    def parts(self, targets_N: Array, classes: int) -> Array:
        """Return the rows behind each proportion that the metric averages; (1,) for a metric over all rows alike.

        Used where resampling shows no spread at all, such as a perfect ROC-AUC on ten rows.
        """
        return np.array([len(targets_N)])

    def note(self, targets_N: Array, labels: Sequence[Label]) -> str:
        """Return what a reader must know about this metric on these rows, or an empty string."""
        return ""


class Counts(NamedTuple):
    """What the metrics on decisions are made of, for R resamples and C classes.

    Args:
        right_RC: Rows of a class that were given that class.
        truth_RC: Rows of a class.
        predicted_RC: Rows that were given a class.
    """

    right_RC: Array
    truth_RC: Array
    predicted_RC: Array


class CountMeasure(Measure):
    """A metric on decisions: only the confusion matrix matters, so that a resample is one draw of a small table."""

    of_decisions: ClassVar[bool] = True

    @abstractmethod
    def of_counts(self, counts: Counts) -> FloatArray:
        """Return the metric of each row of counts (R,)."""

    def proportions(self, counts: Counts) -> tuple[Array, Array] | None:
        """Return successes and trials of the proportions whose plain mean the metric is, or nothing if it is no such mean.

        Args:
            counts: Of the rows as they are, R = 1.
        """
        return None

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the metric under each weighting of the rows; see `Measure.values`."""
        return self.of_counts(self.tally(targets_N, outputs_NC, weights_NR))


def decide(probabilities_NC: FloatArray) -> Array:
    """Return the class of the largest probability (N,); the lowest index wins a tie, as in a task's `decode`."""
    return np.asarray(probabilities_NC.argmax(axis=1))


def count_classes(targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> Counts:
    """Count the decisions for the class of the largest probability; see `count`."""
    return count(targets_N, decide(outputs_NC), outputs_NC.shape[1], weights_NR)


def count(targets_N: Array, predicted_N: Array, classes: int, weights_NR: Array | None = None) -> Counts:
    """Count right, true and predicted rows of each class under each weighting.

    Args:
        targets_N: True class of each row.
        predicted_N: Predicted class of each row.
        classes: Number of classes, C.
        weights_NR: How often each row counts in each resample; every row once if not given.
    """
    right_N = targets_N == predicted_N
    if weights_NR is None:
        tables = [np.bincount(of, minlength=classes)[None] for of in (targets_N[right_N], targets_N, predicted_N)]
        return Counts(*tables)
    every = np.arange(len(targets_N))
    sums = []
    for rows, of in ((np.flatnonzero(right_N), targets_N), (every, targets_N), (every, predicted_N)):
        table_CR = np.zeros((classes, weights_NR.shape[1]), dtype=weights_NR.dtype)
        order = rows[np.argsort(of[rows], kind="stable")]
        if len(order):
            starts = np.flatnonzero(np.r_[True, np.diff(of[order]) != 0])
            table_CR[of[order][starts]] = np.add.reduceat(weights_NR[order], starts, axis=0)
        sums.append(table_CR.T)
    return Counts(*sums)


def ratio(top: Array, bottom: Array) -> FloatArray:
    """Return top / bottom, NaN where the bottom is 0."""
    out: FloatArray = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out


def mean_of_defined(values_RC: FloatArray) -> FloatArray:
    """Return the mean of each row over its entries that are not NaN; NaN for a row that has none."""
    defined_RC = ~np.isnan(values_RC)
    return ratio(np.where(defined_RC, values_RC, 0.0).sum(axis=1), defined_RC.sum(axis=1))


def shown(value: float, *, in_units: bool, digits: int = 3) -> str:
    """Return a metric's value as people read it: so many decimals, or four digits where it is in the unit of the target.

    Example:
        >>> shown(0.98765, in_units=False), shown(23456.7, in_units=True), shown(0.000123456, in_units=True)
        ('0.988', '23,457', '0.0001235')
    """
    if not in_units:
        return f"{value:.{digits}f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
