"""The metrics of sets of labels.

Shapes: N rows, L labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.evaluation.measure import Counts, Measure, mean_of_defined, ratio
from regraft.evaluation.metrics import MeanLoss
from regraft.tasks.decisions import decide_sets
from regraft.types import Array, FloatArray, Label

_SETS = frozenset({"label-sets"})


def count_sets(targets_NL: Array, outputs_NL: FloatArray, weights_NR: Array | None = None) -> Counts:
    """Count for each label the rows that have and were given it, that have it, and that were given it, under each weighting.

    Args:
        targets_NL: 1 where a row has a label.
        outputs_NL: Probability of each label.
        weights_NR: How often each row counts in each resample; every row once if not given.
    """
    given_NL = decide_sets(outputs_NL)
    tables = (given_NL & targets_NL, targets_NL, given_NL)
    if weights_NR is None:
        return Counts(*(table.sum(axis=0)[None] for table in tables))
    return Counts(*(weights_NR.T @ table for table in tables))


class SubsetAccuracy(MeanLoss):
    """Share of rows that were given exactly the labels they have."""

    judges: ClassVar[frozenset[str]] = _SETS
    of_decisions: ClassVar[bool] = True
    higher_is_better: ClassVar[bool | None] = True

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return 1 for each row with the right labels, else 0 (N,)."""
        right_N: FloatArray = (decide_sets(outputs_NC) == targets_N).all(axis=1).astype(np.float64)
        return right_N


class BinaryLogLoss(MeanLoss):
    """Mean over rows and labels of -log of the probability given to what is true, probabilities kept 2e-16 off 0 and 1."""

    judges: ClassVar[frozenset[str]] = _SETS
    bounds: ClassVar[tuple[float, float]] = (0.0, np.inf)

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the mean loss of each row (N,)."""
        tiny = np.finfo(np.float64).eps
        true_NL = np.where(targets_N > 0, outputs_NC, 1.0 - outputs_NC).astype(np.float64)
        losses_N: FloatArray = -np.log(np.clip(true_NL, tiny, 1.0 - tiny)).mean(axis=1)
        return losses_N


class MeanAveragePrecision(Measure):
    """Mean over the labels of the average precision: precision at each true row, in the order of its probability.

    Sum over thresholds of (recall gained there) x precision, equal probabilities taken together (as scikit-learn; Everingham et
    al. 2015, section 4.2, without interpolation). Labels that no row has are left out and noted.
    """

    judges: ClassVar[frozenset[str]] = _SETS

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the mean under each weighting; see `Measure.values`."""
        weights_NR = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR.astype(np.float64, copy=False)
        columns = [
            _average_precision(targets_N[:, label] > 0, outputs_NC[:, label], weights_NR)
            for label in np.flatnonzero(targets_N.any(axis=0))
        ]
        return mean_of_defined(np.stack(columns, axis=1)) if columns else np.full(weights_NR.shape[1], np.nan)

    def visits(self, rows: int, classes: int) -> int:
        """Return rows times labels."""
        return rows * classes

    def parts(self, targets_N: Array, classes: int) -> Array:
        """Return how many rows have each label that has any."""
        counts_L: Array = targets_N.sum(axis=0)
        return counts_L[counts_L > 0]

    def note(self, targets_N: Array, labels: Sequence[Label]) -> str:
        """Say which labels are left out."""
        missing = [f"'{label}'" for label, rows in zip(labels, targets_N.sum(axis=0), strict=True) if rows == 0]
        if len(missing) == len(labels):
            return "mean_average_precision is undefined: no row has a label"
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        return f"mean_average_precision leaves out the labels without rows: {', '.join(missing[:10])}{more}" if missing else ""


def _average_precision(positive_N: Array, scores_N: FloatArray, weights_NR: FloatArray) -> FloatArray:
    """Return the average precision of one label under each weighting (R,); NaN where no true row is drawn."""
    order_N = np.argsort(-scores_N, kind="stable")
    starts_G = np.flatnonzero(np.r_[True, np.diff(scores_N[order_N]) != 0])
    sorted_NR = weights_NR[order_N]
    total_GR = np.add.reduceat(sorted_NR, starts_G, axis=0)
    right_GR = np.add.reduceat(sorted_NR * positive_N[order_N][:, None], starts_G, axis=0)
    above_GR, right_above_GR = np.cumsum(total_GR, axis=0), np.cumsum(right_GR, axis=0)
    precision_GR = ratio(right_above_GR, above_GR)
    gained_R = np.where(right_GR > 0, right_GR * precision_GR, 0.0).sum(axis=0)
    return ratio(gained_R, right_above_GR[-1])
