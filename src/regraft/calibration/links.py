"""How evidence becomes probabilities: what calibrators must know of a task, and nothing else of it.

Evidence is what a calibrator works on and gives back: logits, or for quantiles numbers on the scale of the loss.

Shapes: N rows, C columns (classes, labels, steps between ranks, levels of quantiles).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from regraft.types import Array, FloatArray

LIMIT = 40.0
"""Log-odds beyond which a probability is as good as 0 or 1."""


def log_sigmoid(odds: FloatArray) -> FloatArray:
    """Return log(1 / (1 + e^-x)) without overflow."""
    logs: FloatArray = -np.logaddexp(0.0, -odds)
    return logs


def sigmoid(odds: FloatArray) -> FloatArray:
    """Return 1 / (1 + e^-x) without overflow."""
    shares: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * odds))
    return shares


class Link(ABC):
    """Tell what evidence means, and how bad it is where the truth is known."""

    kind: ClassVar[str]
    """What calibrators name that are for it: "odds" where columns have log-odds, "levels" where they are quantiles."""
    together: ClassVar[bool] = False
    """Whether the columns of a row share one sum, so that there is one temperature for all of them."""

    @abstractmethod
    def losses(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return the loss of each row (N,)."""

    @abstractmethod
    def slopes(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return the derivative of each row's loss with respect to its evidence (N, C)."""

    def marks(self, targets: Array, columns: int) -> FloatArray:
        """Return for each row and column 1 where it is true, 0 where it is not, NaN where nothing can be said (N, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no columns that are true or not")

    def odds(self, evidence_NC: FloatArray) -> FloatArray:
        """Return the log-odds of every column (N, C), each against the rest of its row."""
        raise NotImplementedError(f"{type(self).__name__} has no odds")

    def evidence(self, odds_NC: FloatArray) -> FloatArray:
        """Return evidence whose probabilities are those of these log-odds, made to fit each other (N, C)."""
        raise NotImplementedError(f"{type(self).__name__} has no odds")


class Softmax(Link):
    """Logits of classes of which exactly one is true; targets are their indices (N,)."""

    kind: ClassVar[str] = "odds"
    together: ClassVar[bool] = True

    def losses(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return -log of the softmax of the true class (N,)."""
        top_N1 = evidence_NC.max(axis=1, keepdims=True)
        sums_N = np.log(np.exp(evidence_NC - top_N1).sum(axis=1)) + top_N1[:, 0]
        losses_N: FloatArray = sums_N - evidence_NC[np.arange(len(targets)), targets]
        return losses_N

    def slopes(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return softmax less 1 at the true class (N, C)."""
        shares_NC: FloatArray = np.exp(evidence_NC - evidence_NC.max(axis=1, keepdims=True))
        shares_NC /= shares_NC.sum(axis=1, keepdims=True)
        shares_NC[np.arange(len(targets)), targets] -= 1.0
        return shares_NC

    def marks(self, targets: Array, columns: int) -> FloatArray:
        """Return 1 for the true class of each row, else 0 (N, C)."""
        marks_NC: FloatArray = (targets[:, None] == np.arange(columns)).astype(np.float64)
        return marks_NC

    def odds(self, evidence_NC: FloatArray) -> FloatArray:
        """Return log p - log(1 - p) of each class (N, C), from sums over the other classes, so that nothing cancels."""
        columns = evidence_NC.shape[1]
        order_NC = np.argsort(evidence_NC, axis=1)
        top_N1 = np.take_along_axis(evidence_NC, order_NC[:, -1:], axis=1)
        parts_NC = np.exp(evidence_NC - top_N1)
        others_NC = parts_NC.sum(axis=1, keepdims=True) - parts_NC
        # Of the largest the difference loses its digits: there the others are added up by themselves.
        rest_N = np.where(np.arange(columns) == order_NC[:, -1:], 0.0, parts_NC).sum(axis=1)
        np.put_along_axis(others_NC, order_NC[:, -1:], rest_N[:, None], axis=1)
        with np.errstate(divide="ignore"):
            odds_NC = evidence_NC - top_N1 - np.log(others_NC)
        return np.asarray(np.clip(odds_NC, -LIMIT, LIMIT))

    def evidence(self, odds_NC: FloatArray) -> FloatArray:
        """Return log p of each class; the softmax makes them add up to 1."""
        return log_sigmoid(odds_NC)


class Sigmoids(Link):
    """Logits of labels each of which is true or not by itself; targets 0 or 1 (N, C)."""

    kind: ClassVar[str] = "odds"

    def losses(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return the sum over the columns that count of -log of the probability of what is true (N,)."""
        marks_NC = self.marks(targets, evidence_NC.shape[1])
        signs_NC = np.where(marks_NC > 0, 1.0, -1.0)
        losses_N: FloatArray = -np.where(np.isnan(marks_NC), 0.0, log_sigmoid(signs_NC * evidence_NC)).sum(axis=1)
        return losses_N

    def slopes(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return probability less truth (N, C), 0 where a column does not count."""
        marks_NC = self.marks(targets, evidence_NC.shape[1])
        slopes_NC: FloatArray = np.where(np.isnan(marks_NC), 0.0, sigmoid(evidence_NC) - np.nan_to_num(marks_NC))
        return slopes_NC

    def marks(self, targets: Array, columns: int) -> FloatArray:
        """Return the targets themselves (N, C)."""
        return targets.astype(np.float64)

    def odds(self, evidence_NC: FloatArray) -> FloatArray:
        """Return the logits, kept within what can be told from 0 and 1."""
        return np.clip(evidence_NC, -LIMIT, LIMIT)

    def evidence(self, odds_NC: FloatArray) -> FloatArray:
        """Return the log-odds, which are the logits."""
        return odds_NC


class Steps(Sigmoids):
    """Logits of going beyond each rank where it is reached (see `regraft.tasks.ordinal`); targets are ranks (N,)."""

    def marks(self, targets: Array, columns: int) -> FloatArray:
        """Return 1 for each step that a row took, 0 for the one it did not, NaN for those it did not come to (N, C)."""
        places_C = np.arange(columns)
        taken_NC = (places_C < targets[:, None]).astype(np.float64)
        return np.where(places_C <= targets[:, None], taken_NC, np.nan)


class Levels(Link):
    """Quantiles of the levels that are named; targets are numbers (N,) on the same scale.

    Args:
        levels: Of the columns, ascending.
    """

    kind: ClassVar[str] = "levels"

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels_C = np.array(levels, dtype=np.float64)

    def losses(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return the mean pinball loss over the levels (N,) (Koenker & Bassett 1978)."""
        under_NC = targets[:, None] - evidence_NC
        losses_N: FloatArray = np.maximum(self.levels_C * under_NC, (self.levels_C - 1.0) * under_NC).mean(axis=1)
        return losses_N

    def slopes(self, evidence_NC: FloatArray, targets: Array) -> FloatArray:
        """Return the derivative of the pinball loss (N, C)."""
        slopes_NC: FloatArray = (np.where(targets[:, None] > evidence_NC, 0.0, 1.0) - self.levels_C) / len(self.levels_C)
        return slopes_NC
