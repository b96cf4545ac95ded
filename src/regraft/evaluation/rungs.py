"""The baselines that embarrass, weakest first.

Shapes: N rows, D width of the frozen features, C classes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from regraft.evaluation.metrics import LogLoss
from regraft.evaluation.rung import Rows, Rung, RungRows
from regraft.registry import missing_extra
from regraft.types import Array, FloatArray

CHUNK_ROWS = 16_384
_ONE_OF_SEVERAL = frozenset({"classes", "ranks"})


class Majority(Rung):
    """Say the most frequent training class of every row; the probabilities are the classes' shares of the training rows."""

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL
    uses_features: ClassVar[bool] = False

    def fit(self, rows: RungRows) -> None:
        """Take the shares of the classes."""
        self._shares_C = rows.class_counts_C / rows.class_counts_C.sum()

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the same shares for every row (N, C)."""
        return np.tile(self._shares_C, (len(features_ND), 1))


class Scaled:
    """Features less their training mean, over their training standard deviation; a constant feature becomes 0.

    Args:
        features_ND: The training features.
    """

    def __init__(self, features_ND: FloatArray) -> None:
        total_D = np.zeros(features_ND.shape[1])
        squares_D = np.zeros(features_ND.shape[1])
        for chunk in chunks(features_ND):
            total_D += chunk.sum(axis=0)
        self._mean_D = total_D / len(features_ND)
        for chunk in chunks(features_ND):
            squares_D += np.square(chunk - self._mean_D).sum(axis=0)
        deviation_D = np.sqrt(squares_D / len(features_ND))
        rounding_D = 1e-7 * np.abs(self._mean_D)  # what single precision leaves of a constant
        self._scale_D = np.where(deviation_D > rounding_D, deviation_D, np.inf)

    def __call__(self, features_ND: FloatArray) -> FloatArray:
        """Return features in these units (N, D)."""
        scaled: FloatArray = (features_ND - self._mean_D) / self._scale_D
        return scaled


class NearestCentroid(Rung):
    """Give a row the class whose mean it is nearest to.

    Features are standardised on the training rows and brought to unit length (so that a long text is not far from everything);
    a centroid is the mean of a class's training rows, distance is squared Euclidean. Probabilities are a softmax over
    -distance / temperature (the prototypical network of Snell et al. 2017, eq. 2, without learning). The temperature, which
    changes no decision, is the one of `TEMPERATURES` with the smallest log-loss on the validation rows, or on the training
    rows where there are none. A class without training rows gets probability 0.
    """

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL
    TEMPERATURES: ClassVar[tuple[float, ...]] = tuple(float(t) for t in np.logspace(-3, 1, 33))

    def fit(self, rows: RungRows) -> None:
        """Take the centroids and choose the temperature."""
        train = rows.train
        self._scaled = Scaled(train.features_ND)
        sums_CD = np.zeros((rows.classes, train.features_ND.shape[1]))
        for start, chunk_ND in enumerate(chunks(train.features_ND)):
            targets = train.targets_N[start * CHUNK_ROWS : start * CHUNK_ROWS + len(chunk_ND)]
            onehot_CN = (np.arange(rows.classes)[:, None] == targets).astype(np.float64)
            sums_CD += onehot_CN @ self._unit(chunk_ND)
        counts_C = np.bincount(train.targets_N, minlength=rows.classes)
        self._empty_C = counts_C == 0
        self._centroids_CD = sums_CD / np.maximum(counts_C, 1)[:, None]
        judged, self.note = (rows.valid, "") if len(rows.valid) else (train, "temperature chosen on the training rows")
        distances_NC = self._distances(judged.features_ND)
        loss = LogLoss()
        losses = [loss.value(judged.targets_N, softmax(-distances_NC / t)) for t in self.TEMPERATURES]
        self._temperature = self.TEMPERATURES[int(np.argmin(losses))]

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return a softmax over the negative distances (N, C)."""
        return softmax(-self._distances(features_ND) / self._temperature)

    def _unit(self, features_ND: FloatArray) -> FloatArray:
        scaled_ND = self._scaled(features_ND)
        length_N1 = np.linalg.norm(scaled_ND, axis=1, keepdims=True)
        unit_ND: FloatArray = scaled_ND / np.where(length_N1 > 0, length_N1, 1.0)
        return unit_ND

    def _distances(self, features_ND: FloatArray) -> FloatArray:
        norms_C = np.square(self._centroids_CD).sum(axis=1)
        parts = []
        for chunk_ND in chunks(features_ND):
            unit_ND = self._unit(chunk_ND)
            parts.append(np.square(unit_ND).sum(axis=1, keepdims=True) + norms_C - 2 * unit_ND @ self._centroids_CD.T)
        distances_NC = np.concatenate(parts) if parts else np.empty((0, len(norms_C)))
        distances_NC[:, self._empty_C] = np.inf
        return distances_NC


class LinearProbe(Rung):
    """Logistic regression on frozen features: what the base is worth without fitting it (Alain & Bengio 2016).

    scikit-learn's L2-regularised multinomial regression on features standardised by the training rows. The strength is chosen
    by log-loss on the validation rows (a seeded fifth of the training rows where there are none, after which all are used):
    `STRENGTHS` are tried from the strongest penalty to the weakest, each started from the one before, until the loss rises.
    """

    judges: ClassVar[frozenset[str]] = _ONE_OF_SEVERAL
    STRENGTHS: ClassVar[tuple[float, ...]] = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
    """Values of `C`, the inverse of the penalty on a loss summed over rows."""
    MOST_ITERATIONS: ClassVar[int] = 2000

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._model: Any = None
        self._converged = True

    def fit(self, rows: RungRows) -> None:
        """Fit at several strengths and keep the best.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        self._classes = rows.classes
        train, valid = rows.held_out(self.seed)
        strength = self._choose(train, valid)
        self.note = f"C = {strength:g}"
        if not len(rows.valid):
            self._scaled = Scaled(rows.train.features_ND)
            self._learn(self._scaled(rows.train.features_ND), rows.train.targets_N, self._regression(strength))
            self.note += ", chosen on a fifth of the training rows"
        if not self._converged:
            self.note += f"; not converged after {self.MOST_ITERATIONS} iterations"

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the regression's probabilities (N, C); 0 for a class without training rows."""
        parts = [self._model.predict_proba(self._scaled(chunk_ND)) for chunk_ND in chunks(features_ND)]
        found_NC = np.zeros((len(features_ND), self._classes))
        if parts:
            found_NC[:, self._model.classes_] = np.concatenate(parts)
        return found_NC

    def _choose(self, train: Rows, valid: Rows) -> float:
        """Return the best strength; its model stays in place."""
        self._scaled = Scaled(train.features_ND)
        scaled_ND = self._scaled(train.features_ND)
        loss, best, chosen = LogLoss(), np.inf, self.STRENGTHS[0]
        model = self._regression(chosen)
        kept: tuple[Any, bool] = (model, True)
        for strength in self.STRENGTHS:
            model.set_params(C=strength)
            self._learn(scaled_ND, train.targets_N, model)
            found = loss.value(valid.targets_N, self.probabilities(valid.features_ND))
            if found >= best:
                break
            best, chosen, kept = found, strength, (copy.deepcopy(model), self._converged)
        self._model, self._converged = kept
        return chosen

    def _regression(self, strength: float) -> Any:
        try:
            from sklearn.linear_model import LogisticRegression
        except ModuleNotFoundError as error:
            raise missing_extra(error, "'linear-probe' (rungs)", "train") from error
        return LogisticRegression(C=strength, max_iter=self.MOST_ITERATIONS, warm_start=True)

    def _learn(self, scaled_ND: FloatArray, targets_N: Array, model: Any) -> None:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(scaled_ND, targets_N)
        self._model = model
        self._converged = not any(issubclass(entry.category, ConvergenceWarning) for entry in caught)


def chunks(features_ND: FloatArray) -> Iterator[FloatArray]:
    """Yield the rows in float64, a few at a time."""
    for start in range(0, len(features_ND), CHUNK_ROWS):
        yield features_ND[start : start + CHUNK_ROWS].astype(np.float64)


def softmax(logits_NC: Array) -> FloatArray:
    """Return numbers that are positive and add up to 1 in each row."""
    raised_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    normed_NC: FloatArray = raised_NC / raised_NC.sum(axis=1, keepdims=True)
    return normed_NC
