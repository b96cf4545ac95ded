"""Ordered classes: the answer is the median rank, and what counts is how far off it is.

Shapes: N rows, C ranks, R resamples.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.evaluation.measure import Measure, ratio
from regraft.evaluation.metrics import MeanLoss
from regraft.tasks.decisions import decide_rank
from regraft.types import Array, FloatArray

_RANKS = frozenset({"ranks"})


class RankMae(MeanLoss):
    """Mean absolute distance between given and true rank, in ranks."""

    judges: ClassVar[frozenset[str]] = _RANKS
    of_decisions: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, np.inf)

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the distance of each row (N,)."""
        distances_N: FloatArray = np.abs(decide_rank(outputs_NC) - targets_N).astype(np.float64)
        return distances_N


class QuadraticKappa(Measure):
    """Agreement beyond chance, disagreement weighed by the square of the distance in ranks (Cohen 1968, "Weighted kappa").

    1 - sum of (i - j)^2 over the rows / the same where the two are drawn independently from their own distributions.
    """

    judges: ClassVar[frozenset[str]] = _RANKS
    of_decisions: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return kappa under each weighting; NaN where all rows have and were given one and the same rank."""
        weights_NR = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR.astype(np.float64, copy=False)
        truth_N, given_N = targets_N.astype(np.float64), decide_rank(outputs_NC).astype(np.float64)
        total_R = weights_NR.sum(axis=0)
        observed_R = np.square(truth_N - given_N) @ weights_NR / total_R
        # E (i - j)^2 of independent draws is the mean of the squares less twice the product of the means.
        squares_R = (np.square(truth_N) + np.square(given_N)) @ weights_NR / total_R
        chance_R = squares_R - 2 * (truth_N @ weights_NR / total_R) * (given_N @ weights_NR / total_R)
        chance_R = np.where(chance_R > 1e-12, chance_R, 0.0)  # what rounding leaves of nothing
        kappas_R: FloatArray = 1.0 - ratio(observed_R, chance_R)
        return kappas_R
