"""What a rung of the ladder is: a baseline that a fitted model must beat to have been worth fitting.

Shapes: N rows, D width of the frozen features, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from regraft.types import Array, FloatArray


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as the rungs see them.

    Args:
        features_ND: Pooled features of the frozen backbone, before any fitting.
        targets_N: Class index, 0 to C - 1.
    """

    features_ND: FloatArray
    targets_N: Array

    def __len__(self) -> int:
        return len(self.targets_N)

    def take(self, positions: Array) -> Rows:
        """Return the rows at these positions."""
        return Rows(self.features_ND[positions], self.targets_N[positions])


@dataclass(frozen=True, kw_only=True)
class RungRows:
    """What a rung may learn from.

    Args:
        train: Training rows, or a sample of them.
        valid: Validation rows; may be empty.
        class_counts_C: Rows of each class among all training rows, also those that are not in `train`.
    """

    train: Rows
    valid: Rows
    class_counts_C: Array

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_counts_C)


class Rung(ABC):
    """Learn a baseline from frozen features. A rung never sees a test target.

    Args:
        seed: Seeds whatever is drawn.
    """

    uses_features: ClassVar[bool] = True
    """Whether the features matter; if not, none need be given."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.note = ""
        """What a reader must know about how it was learnt."""

    @abstractmethod
    def fit(self, rows: RungRows) -> None:
        """Learn from training and validation rows."""

    @abstractmethod
    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the probability of every class for each row (N, C), float64."""


def no_rows(width: int) -> Rows:
    """Return zero rows of features of a width, for data without a validation split."""
    return Rows(np.empty((0, width), dtype=np.float32), np.empty(0, dtype=np.int64))
