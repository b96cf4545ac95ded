"""Intervals of numbers: around one number, or around two quantiles.

Shapes: N rows, Q levels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from regraft.calibration.score import Score
from regraft.options import options
from regraft.types import Array, FloatArray


@options
class IntervalOptions:
    """Intervals have nothing to choose."""


class Residual(Score):
    """How far the true number is from the answer, up or down: intervals of one width (Lei et al. 2018, algorithm 2)."""

    Options: ClassVar[type[Any]] = IntervalOptions
    name: ClassVar[str] = "residual"
    answers: ClassVar[frozenset[str]] = frozenset({"numbers"})
    grouped: ClassVar[bool] = False

    def of_truth(self, judged_NC: FloatArray, targets_N: Array) -> FloatArray:
        """Return the absolute error of each row (N,)."""
        errors_N: FloatArray = np.abs(targets_N - judged_NC[:, 0])
        return errors_N

    def intervals(self, judged_NC: FloatArray, limit: float) -> FloatArray:
        """Return the number less and plus the limit (N, 2)."""
        return np.asarray(judged_NC[:, :1] + np.array([-limit, limit]))


class QuantileResidual(Score):
    """CQR: how far the true number is outside the outermost quantiles, below 0 inside (Romano et al. 2019, arXiv:1905.03222).

    The score is that of equation 6. Where what is taken off would leave nothing between them, both ends are their middle.
    """

    Options: ClassVar[type[Any]] = IntervalOptions
    name: ClassVar[str] = "cqr"
    answers: ClassVar[frozenset[str]] = frozenset({"quantiles"})
    grouped: ClassVar[bool] = False

    def of_truth(self, judged_NC: FloatArray, targets_N: Array) -> FloatArray:
        """Return the larger of lowest quantile less number and number less highest quantile (N,)."""
        outside_N: FloatArray = np.maximum(judged_NC[:, 0] - targets_N, targets_N - judged_NC[:, -1])
        return outside_N

    def intervals(self, judged_NC: FloatArray, limit: float) -> FloatArray:
        """Return the lowest quantile less the limit, and the highest plus it (N, 2)."""
        ends_N2 = judged_NC[:, [0, -1]] + np.array([-limit, limit])
        middle_N1 = judged_NC[:, [0, -1]].mean(axis=1, keepdims=True)
        return np.asarray(np.where(ends_N2[:, :1] > ends_N2[:, 1:], middle_N1, ends_N2))
