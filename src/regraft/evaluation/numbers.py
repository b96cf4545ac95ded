"""The metrics of regression: how far numbers are off, and how honest quantiles are.

Shapes: N rows, Q quantile levels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.evaluation.measure import Measure, ratio
from regraft.evaluation.metrics import MeanLoss
from regraft.types import Array, FloatArray, Label

_NUMBERS = frozenset({"numbers", "quantiles"})
_QUANTILES = frozenset({"quantiles"})


def levels_of(columns: Sequence[Label]) -> FloatArray:
    """Return the levels (Q,) that name the columns of quantiles.

    Example:
        >>> levels_of(("0.1", "0.5", "0.9")).tolist()
        [0.1, 0.5, 0.9]
    """
    return np.array([float(column) for column in columns])


def pinball_losses(targets_N: Array, outputs_NQ: FloatArray, levels_Q: FloatArray) -> FloatArray:
    """Return the mean pinball loss of each row over the levels (N,).

    max(q (y - z), (q - 1) (y - z)) for the quantile z of level q (Koenker & Bassett 1978, "Regression quantiles").
    """
    under_NQ = targets_N[:, None] - outputs_NQ
    losses_N: FloatArray = np.maximum(levels_Q * under_NQ, (levels_Q - 1.0) * under_NQ).mean(axis=1)
    return losses_N


class _OfPoint(MeanLoss):
    """A mean over rows of what one number a row costs; of several quantiles the middle one is taken."""

    judges: ClassVar[frozenset[str]] = _NUMBERS
    bounds: ClassVar[tuple[float, float]] = (0.0, np.inf)
    in_units: ClassVar[bool] = True

    def errors(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return number given less number true (N,)."""
        middle = int(np.argmin(np.abs(levels_of(self.columns) - 0.5))) if self.columns else 0
        errors_N: FloatArray = outputs_NC[:, middle].astype(np.float64) - targets_N
        return errors_N


class Mae(_OfPoint):
    """Mean absolute error, in the unit of the target."""

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the absolute error of each row (N,)."""
        return np.abs(self.errors(targets_N, outputs_NC))


class Rmse(_OfPoint):
    """Root of the mean squared error, in the unit of the target."""

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the squared error of each row (N,)."""
        return np.square(self.errors(targets_N, outputs_NC))

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the root of the weighted mean; see `Measure.values`."""
        return np.sqrt(super().values(targets_N, outputs_NC, weights_NR))

    def influence(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return (e^2 - mean of e^2) / (2 rmse)."""
        pulls_N = super().influence(targets_N, outputs_NC)
        root = self.value(targets_N, outputs_NC)
        return pulls_N / (2 * root) if root > 0 else pulls_N


class R2(_OfPoint):
    """Share of the target's variance that is explained: 1 - sum of squared errors / sum of squares about the mean.

    0 for always answering the mean of the judged rows, below 0 for worse than that; undefined where all targets are equal.
    """

    higher_is_better: ClassVar[bool | None] = True
    bounds: ClassVar[tuple[float, float]] = (-np.inf, 1.0)
    in_units: ClassVar[bool] = False

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the squared error of each row (N,)."""
        return np.square(self.errors(targets_N, outputs_NC))

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the coefficient of determination under each weighting; see `Measure.values`."""
        weights_NR = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR.astype(np.float64, copy=False)
        centred_N = targets_N - targets_N.mean()  # so that nothing is lost where the mean is large
        total_R = weights_NR.sum(axis=0)
        spread_R = np.square(centred_N) @ weights_NR - np.square(centred_N @ weights_NR) / total_R
        spread_R = np.where(spread_R > 1e-12 * np.square(centred_N).sum(), spread_R, 0.0)
        explained_R: FloatArray = 1.0 - ratio(self.losses(targets_N, outputs_NC) @ weights_NR, spread_R)
        return explained_R

    def influence(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the derivative of 1 - A / B, with A the mean squared error and B the variance of the target."""
        losses_N = self.losses(targets_N, outputs_NC)
        squares_N = np.square(targets_N - targets_N.mean())
        spread = squares_N.mean()
        if spread == 0:
            return np.zeros(len(targets_N))
        pulls_N: FloatArray = losses_N.mean() / spread**2 * (squares_N - spread) - (losses_N - losses_N.mean()) / spread
        return pulls_N


class Pinball(MeanLoss):
    """Mean pinball loss over rows and levels, in the unit of the target; half the absolute error at the median."""

    judges: ClassVar[frozenset[str]] = _QUANTILES
    bounds: ClassVar[tuple[float, float]] = (0.0, np.inf)
    in_units: ClassVar[bool] = True

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the loss of each row (N,)."""
        return pinball_losses(targets_N, outputs_NC.astype(np.float64), levels_of(self.columns))


class Coverage(MeanLoss):
    """Share of rows whose true number lies between the lowest and the highest quantile; it should be near the nominal share."""

    judges: ClassVar[frozenset[str]] = _QUANTILES
    higher_is_better: ClassVar[bool | None] = None
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return 1 for each row inside, else 0 (N,)."""
        inside_N = (outputs_NC[:, 0] <= targets_N) & (targets_N <= outputs_NC[:, -1])
        return inside_N.astype(np.float64)

    def note(self, targets_N: Array, labels: Sequence[Label]) -> str:
        """Name the nominal share."""
        levels_Q = levels_of(labels)
        return f"coverage should be near {levels_Q[-1] - levels_Q[0]:.3g}: quantiles {levels_Q[0]:g} to {levels_Q[-1]:g}"


class CalibrationError(Measure):
    """Mean over the levels of |share of rows at or below the quantile - level| (Kuleshov et al. 2018, arXiv:1807.00263)."""

    judges: ClassVar[frozenset[str]] = _QUANTILES
    higher_is_better: ClassVar[bool | None] = False

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the mean distance under each weighting; see `Measure.values`."""
        weights_NR = np.ones((len(targets_N), 1)) if weights_NR is None else weights_NR.astype(np.float64, copy=False)
        below_NQ = (targets_N[:, None] <= outputs_NC).astype(np.float64)
        shares_QR = below_NQ.T @ weights_NR / weights_NR.sum(axis=0)
        errors_R: FloatArray = np.abs(shares_QR - levels_of(self.columns)[:, None]).mean(axis=0)
        return errors_R

    def visits(self, rows: int, classes: int) -> int:
        """Return rows times levels."""
        return rows * classes
