"""What a rung of the ladder is: a baseline that a fitted model must beat to have been worth fitting.

Shapes: N rows, D width of the frozen features, C classes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from regraft.evaluation.sample import stratified
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    from regraft.evaluation.answer_kind import AnswerKind


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as the rungs see them.

    Args:
        features_ND: Pooled features of the frozen backbone, before any fitting.
        targets_N: What `Task.targets` returned: class index, 0 or 1 for each label (N, C), or number.
        widths: How many of the features each part of a row has; empty where rows have no parts.
        words: Name of a label -> the features (D,) of that name read as a row; None where rows are no texts.
    """

    features_ND: FloatArray
    targets_N: Array
    widths: tuple[int, ...] = ()
    words: Mapping[str, FloatArray] | None = None

    def __len__(self) -> int:
        return len(self.targets_N)

    def take(self, positions: Array) -> Rows:
        """Return the rows at these positions."""
        return dataclasses.replace(self, features_ND=self.features_ND[positions], targets_N=self.targets_N[positions])


@dataclass(frozen=True, kw_only=True)
class RungRows:
    """What a rung may learn from.

    Args:
        train: Training rows, or a sample of them.
        valid: Validation rows; may be empty.
        class_counts_C: Rows of each class among all training rows, also those that are not in `train`; empty for numbers.
        targets: Targets of all training rows, where `train` is a sample of them.
        kind: What kind of answers is wanted; None stands for classes.
    """

    train: Rows
    valid: Rows
    class_counts_C: Array
    targets: Array | None = None
    kind: AnswerKind | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_counts_C)

    @property
    def all_targets(self) -> Array:
        """Targets of all training rows."""
        return self.train.targets_N if self.targets is None else self.targets

    def held_out(self, seed: int) -> tuple[Rows, Rows]:
        """Return rows to learn from and rows to choose by: those for validation, or where there are none a seeded fifth.

        Where there is no rest, the same rows stand for both.
        """
        if len(self.valid):
            return self.train, self.valid
        groups_N = self.kind.groups(self.train.targets_N) if self.kind else self.train.targets_N
        kept = stratified(groups_N, len(self.train) - max(1, len(self.train) // 5), seed)
        rest = np.setdiff1d(np.arange(len(self.train)), kept)
        return self.train.take(kept), self.train.take(rest) if len(rest) else self.train.take(kept)


class Rung(ABC):
    """Learn a baseline from frozen features. A rung never sees a test target.

    Args:
        seed: Seeds whatever is drawn.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"classes"})
    """Registered names of the kinds of answers (`ANSWERS`) that it gives."""
    uses_features: ClassVar[bool] = True
    """Whether the features matter; if not, none need be given."""
    learns_from_sample: ClassVar[bool] = True
    """Whether more training rows would make it another one, so that it is told where it learns from a sample."""

    reads_names: ClassVar[bool] = False
    """Whether it takes the features of the names of labels (`Rows.words`)."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.note = ""
        """What a reader must know about how it was learnt."""

    @classmethod
    def lacking(cls, rows: RungRows) -> str:
        """Return what these rows lack that it takes, or an empty string; a rung that cannot be is left out."""
        return ""

    @property
    def size_bytes(self) -> int:
        """Bytes of the numbers that it answers with."""
        return _size(self, depth=3)

    @abstractmethod
    def fit(self, rows: RungRows) -> None:
        """Learn from training and validation rows."""

    @abstractmethod
    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return what `Task.probabilities` does: the probability of every class (N, C), or numbers; float64."""


def _size(thing: object, depth: int) -> int:
    """Return the bytes of the arrays in the attributes of a thing, and of what stands in them."""
    if isinstance(thing, np.ndarray):
        return int(thing.nbytes)
    if isinstance(thing, list | tuple):
        return sum(_size(item, depth) for item in thing)
    return sum(_size(value, depth - 1) for value in getattr(thing, "__dict__", {}).values()) if depth else 0


def no_rows(width: int) -> Rows:
    """Return zero rows of features of a width, for data without a validation split."""
    return Rows(np.empty((0, width), dtype=np.float32), np.empty(0, dtype=np.int64))
