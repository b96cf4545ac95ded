"""The baselines that embarrass a regression, weakest first.

Shapes: N rows, D width of the frozen features, Q quantile levels.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.evaluation.numbers import levels_of
from regraft.evaluation.rung import Rows, Rung, RungRows
from regraft.evaluation.rungs import CHUNK_ROWS, Scaled, chunks
from regraft.types import FloatArray

_NUMBERS, _QUANTILES = frozenset({"numbers"}), frozenset({"quantiles"})


class _Constant(Rung):
    """A rung that says the same of every row."""

    uses_features: ClassVar[bool] = False

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the same numbers for every row (N, C)."""
        return np.tile(self._answer_C, (len(features_ND), 1))

    _answer_C: FloatArray


class Mean(_Constant):
    """Say the mean of the training targets, which has the smallest squared error of all constants."""

    judges: ClassVar[frozenset[str]] = _NUMBERS

    def fit(self, rows: RungRows) -> None:
        """Take the mean."""
        self._answer_C = np.array([rows.all_targets.mean()])


class Median(_Constant):
    """Say the median of the training targets, which has the smallest absolute error of all constants."""

    judges: ClassVar[frozenset[str]] = _NUMBERS

    def fit(self, rows: RungRows) -> None:
        """Take the median."""
        self._answer_C = np.array([np.median(rows.all_targets)])


class QuantilesOfAll(_Constant):
    """Say the quantiles of the training targets."""

    judges: ClassVar[frozenset[str]] = _QUANTILES

    def fit(self, rows: RungRows) -> None:
        """Take the quantiles."""
        self._answer_C = np.quantile(rows.all_targets, _levels(rows))


class RidgeProbe(Rung):
    """Ridge regression on frozen features: what the base is worth without fitting it (Hoerl & Kennard 1970).

    |y - X w - b|^2 + alpha |w|^2 on features standardised by the training rows. The penalty is chosen by the squared error on
    the validation rows (a seeded fifth of the training rows where there are none, after which all are used).
    """

    judges: ClassVar[frozenset[str]] = _NUMBERS
    PENALTIES: ClassVar[tuple[float, ...]] = (1e5, 1e4, 1e3, 1e2, 1e1, 1.0, 0.1)

    def fit(self, rows: RungRows) -> None:
        """Fit at every penalty and keep the best."""
        train, valid = rows.held_out(self.seed)
        self._solve(train)
        truth_N = valid.targets_N.astype(np.float64)
        errors = {}
        for penalty in self.PENALTIES:
            self._choose(penalty)
            errors[penalty] = float(np.square(self.numbers(valid.features_ND) - truth_N).mean())
        best = min(errors, key=lambda penalty: errors[penalty])  # of equal errors the stronger penalty, which comes first
        self._choose(best)
        self.left_N = truth_N - self.numbers(valid.features_ND)
        self.note = f"alpha = {best:g}"
        if not len(rows.valid):
            self._solve(rows.train)
            self._choose(best)
            self.note += ", chosen on a fifth of the training rows"
        del self._axes_DD, self._values_D, self._product_D  # no answer needs them

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the regression's numbers (N, 1)."""
        return self.numbers(features_ND)[:, None]

    def numbers(self, features_ND: FloatArray) -> FloatArray:
        """Return the regression's numbers (N,)."""
        parts = [self._scaled(chunk_ND) @ self._weights_D + self._offset for chunk_ND in chunks(features_ND)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _solve(self, train: Rows) -> None:
        """Turn the normal equations to their principal axes, where every penalty is one division."""
        self._scaled = Scaled(train.features_ND)
        width, targets_N = train.features_ND.shape[1], train.targets_N.astype(np.float64)
        self._offset = float(targets_N.mean())  # scaled features have the mean 0
        gram_DD, product_D = np.zeros((width, width)), np.zeros(width)
        for number, chunk_ND in enumerate(chunks(train.features_ND)):
            scaled_ND = self._scaled(chunk_ND)
            gram_DD += scaled_ND.T @ scaled_ND
            product_D += scaled_ND.T @ (targets_N[number * CHUNK_ROWS : number * CHUNK_ROWS + len(chunk_ND)] - self._offset)
        values_D, self._axes_DD = np.linalg.eigh(gram_DD)
        self._values_D, self._product_D = np.maximum(values_D, 0.0), self._axes_DD.T @ product_D

    def _choose(self, penalty: float) -> None:
        self._weights_D = self._axes_DD @ (self._product_D / (self._values_D + penalty))


class RidgeQuantiles(RidgeProbe):
    """Ridge regression, and around it the quantiles of what it leaves over on rows that it has not seen.

    The spread is the same for every row, which is what quantiles that depend on the row have to beat.
    """

    judges: ClassVar[frozenset[str]] = _QUANTILES

    def fit(self, rows: RungRows) -> None:
        """Fit the regression, take the quantiles of its errors."""
        super().fit(rows)
        self._around_Q = np.quantile(self.left_N, _levels(rows))

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the quantiles (N, Q)."""
        found_NQ: FloatArray = self.numbers(features_ND)[:, None] + self._around_Q
        return found_NQ


def _levels(rows: RungRows) -> FloatArray:
    return levels_of(rows.kind.columns if rows.kind else ())
