"""The baselines that embarrass a model of several labels a row.

Shapes: N rows, D width of the frozen features, L labels.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from regraft.evaluation.label_sets import BinaryLogLoss
from regraft.evaluation.rung import Rows, Rung, RungRows
from regraft.evaluation.rungs import Scaled, chunks
from regraft.registry import missing_extra
from regraft.types import Array, FloatArray

_SETS = frozenset({"label-sets"})


class LabelShares(Rung):
    """Say of every row how often each label occurs in the training rows."""

    judges: ClassVar[frozenset[str]] = _SETS
    uses_features: ClassVar[bool] = False

    def fit(self, rows: RungRows) -> None:
        """Take the shares of the labels."""
        self._shares_L = rows.class_counts_C / len(rows.all_targets)

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the same shares for every row (N, L)."""
        return np.tile(self._shares_L, (len(features_ND), 1))


class OneVsRestProbe(Rung):
    """A logistic regression a label on frozen features, one strength for all of them (Rifkin & Klautau 2004).

    scikit-learn's L2-regularised regression on features standardised by the training rows. The strength is chosen by binary
    log-loss on the validation rows (a seeded fifth of the training rows where there are none, after which all are used), from
    the strongest penalty to the weakest until the loss rises. A label that all or none of these rows have keeps its share.
    """

    judges: ClassVar[frozenset[str]] = _SETS
    STRENGTHS: ClassVar[tuple[float, ...]] = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
    """Values of `C`, the inverse of the penalty on a loss summed over rows."""
    MOST_ITERATIONS: ClassVar[int] = 1000
    _weights_DL: FloatArray
    _offsets_L: FloatArray

    def fit(self, rows: RungRows) -> None:
        """Fit at several strengths and keep the best.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        train, valid = rows.held_out(self.seed)
        best, chosen = np.inf, self.STRENGTHS[0]
        kept: tuple[FloatArray, FloatArray] | None = None
        for strength in self.STRENGTHS:
            self._learn(train, strength)
            found = BinaryLogLoss().value(valid.targets_N, self.probabilities(valid.features_ND))
            if found >= best:
                break
            best, chosen, kept = found, strength, (self._weights_DL, self._offsets_L)
        self.note = f"C = {chosen:g}"
        if kept is not None:
            self._weights_DL, self._offsets_L = kept
        if not len(rows.valid):
            self._learn(rows.train, chosen)
            self.note += ", chosen on a fifth of the training rows"

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the probability of every label (N, L)."""
        parts = [self._scaled(chunk_ND) @ self._weights_DL + self._offsets_L for chunk_ND in chunks(features_ND)]
        logits_NL = np.concatenate(parts) if parts else np.empty((0, len(self._offsets_L)))
        shares_NL: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * logits_NL))  # the logistic function without overflow
        return shares_NL

    def _learn(self, train: Rows, strength: float) -> None:
        self._scaled = Scaled(train.features_ND)
        scaled_ND, targets_NL = self._scaled(train.features_ND), train.targets_N
        labels = targets_NL.shape[1]
        self._weights_DL = np.zeros((scaled_ND.shape[1], labels))
        self._offsets_L = np.zeros(labels)
        for label in range(labels):
            share = float(targets_NL[:, label].mean())
            if 0.0 < share < 1.0:
                model = _fitted(scaled_ND, targets_NL[:, label], strength, self.MOST_ITERATIONS)
                self._weights_DL[:, label], self._offsets_L[label] = model.coef_[0], model.intercept_[0]
            else:
                edge = 0.5 / (len(targets_NL) + 1)  # never seen, or never missing: as if half a row more had been
                self._offsets_L[label] = np.log((share + edge) / (1.0 - share + edge))


def _fitted(scaled_ND: FloatArray, targets_N: Array, strength: float, iterations: int) -> Any:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise missing_extra(error, "'one-vs-rest-probe' (rungs)", "train") from error
    model = LogisticRegression(C=strength, max_iter=iterations)
    with warnings.catch_warnings():
        # Many labels, few of them hard: what has not converged after so many steps is as good a baseline as it will be.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled_ND, targets_N)
    return model
