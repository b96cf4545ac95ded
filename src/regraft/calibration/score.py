"""Split conformal prediction: how strange each possible answer to a row is, held against rows whose truth is known.

If rows to come are drawn as those were, the set of answers that are no stranger than the ceil((n + 1) coverage)-th smallest of
n scores holds the truth with at least that chance, whatever the network is worth (Vovk, Gammerman & Shafer 2005; Lei et al.
2018, theorem 2), and with at most 1 / (n + 1) more where no scores are equal.

Shapes: N rows, C columns of what is judged (probabilities, quantiles, a number).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from regraft.options import JSON
from regraft.types import Array, FloatArray

MOST_KEPT = 1000
"""Scores that are kept of each group: of more, evenly spaced ones, and the next larger one is used."""


class Score(ABC):
    """Tell how strange answers are. One line each in the table `SCORES`.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    name: ClassVar[str]
    answers: ClassVar[frozenset[str]]
    """Kinds of answers (`Task.answers`) that it is for."""
    grouped: ClassVar[bool] = True
    """Whether what is strange can be told for each class by itself."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def of_truth(self, judged_NC: FloatArray, targets_N: Array) -> FloatArray:
        """Return how strange the true answer of each row is (N,)."""

    def sets(self, judged_NC: FloatArray, limits_C: FloatArray) -> Array:
        """Return which classes are no stranger than their limits (N, C), bool; for answers that are classes."""
        raise NotImplementedError(f"'{self.name}' gives no sets")

    def intervals(self, judged_NC: FloatArray, limit: float) -> FloatArray:
        """Return lower and upper end of each row's numbers that are no stranger than the limit (N, 2); for numbers."""
        raise NotImplementedError(f"'{self.name}' gives no intervals")

    @property
    def gives_sets(self) -> bool:
        """Whether it gives sets of classes, and not intervals of numbers."""
        return type(self).sets is not Score.sets


@dataclass(frozen=True)
class Ranked:
    """The scores of rows whose truth is known, or evenly spaced ones of them.

    Args:
        rows: How many there were.
        ranks: Which ones are kept, counted from 1, ascending; the largest always is.
        values: Their scores.
    """

    rows: int
    ranks: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, scores_N: FloatArray) -> Ranked:
        """Return the scores in order, thinned if there are many."""
        rows = len(scores_N)
        ordered = np.sort(scores_N)
        places = np.linspace(1, rows, min(rows, MOST_KEPT)) if rows else np.arange(0)
        kept = np.unique(np.ceil(places).astype(np.int64))
        return cls(rows, tuple(kept.tolist()), tuple(ordered[kept - 1].tolist()))

    def limit(self, coverage: float) -> float:
        """Return the ceil((n + 1) coverage)-th smallest score, or the next that is kept; infinite where there is none."""
        rank = math.ceil((self.rows + 1) * coverage - 1e-9)
        place = int(np.searchsorted(self.ranks, max(1, rank)))
        return self.values[place] if place < len(self.values) else math.inf

    def to_json(self) -> dict[str, JSON]:
        """Return rows, ranks and values; ranks are left out where every score is kept."""
        ranks = {} if len(self.ranks) == self.rows else {"ranks": list(self.ranks)}
        return {"rows": self.rows, "values": list(self.values), **ranks}

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> Ranked:
        """Return what `to_json` wrote.

        Raises:
            ValueError: They are no scores in order.
        """
        rows, kept = int(values["rows"]), tuple(float(value) for value in values["values"])
        ranks = tuple(int(rank) for rank in values.get("ranks", range(1, rows + 1)))
        if len(ranks) != len(kept) or list(kept) != sorted(kept) or not all(map(math.isfinite, kept)):
            raise ValueError("the scores of an artifact are no finite numbers in order")
        return cls(rows, ranks, kept)


@dataclass(frozen=True)
class Conformal:
    """A score with what it was on rows whose truth is known: of all rows, or of each class by itself.

    Args:
        score: How strange answers are.
        ranked: One entry, or one a class.
        per_class: Whether each class has its own.
    """

    score: Score
    ranked: tuple[Ranked, ...]
    per_class: bool = False

    @classmethod
    def of(cls, score: Score, judged_NC: FloatArray, targets_N: Array, *, per_class: bool = False) -> Conformal:
        """Return the score with what it is on these rows (Vovk 2012, "Conditional validity", for each class by itself)."""
        scores_N = score.of_truth(judged_NC, targets_N)
        if not per_class:
            return cls(score, (Ranked.of(scores_N),))
        return cls(score, tuple(Ranked.of(scores_N[targets_N == label]) for label in range(judged_NC.shape[1])), per_class=True)

    @property
    def rows(self) -> int:
        """Rows behind it."""
        return sum(one.rows for one in self.ranked)

    def sets(self, judged_NC: FloatArray, coverage: float) -> Array:
        """Return which classes belong to each row's set (N, C), bool."""
        limits = np.array([one.limit(coverage) for one in self.ranked])
        return self.score.sets(judged_NC, np.broadcast_to(limits, (judged_NC.shape[1],)))

    def intervals(self, judged_NC: FloatArray, coverage: float) -> FloatArray:
        """Return the ends of each row's interval (N, 2); infinite where there are too few rows to say so much."""
        return self.score.intervals(judged_NC, self.ranked[0].limit(coverage))

    def short_of(self, coverage: float) -> list[int]:
        """Return the groups that have too few rows for such a coverage: whatever they could hold is always in."""
        return [place for place, one in enumerate(self.ranked) if math.isinf(one.limit(coverage))]
