"""The metrics of retrieval: at which place what belongs to a part of a row stands among all that could.

What is asked for is a thing, known by its target: it stands where the best of its rows stands, so that a picture under two
names is looked for once. Among things with the same score every order is as likely, and expectations are taken: a network
that gives all rows the same vector is as good as chance, whose recall at k among E things is k / E and whose median rank is
(E + 1) / 2.

Shapes: N rows, E different things, W width of the shared space, R resamples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from regraft.evaluation.measure import Measure
from regraft.evaluation.metrics import MeanLoss
from regraft.types import Array, FloatArray, Label

PAIRS = frozenset({"pairs"})
THERE, BACK = ("there",), ("back",)
_CHUNK_NUMBERS = 4_000_000
_TWO = 2
_SAME = 1e-6
"""Cosines that are nearer to each other are the same: so far the last bits of a batch move them."""


class Places(NamedTuple):
    """Where the right thing stands for each row.

    Args:
        above_N: Things with a higher score.
        level_N: Other things with the same score.
        things: How many there are, E.
    """

    above_N: Array
    level_N: Array
    things: int

    def hits(self, most: int) -> FloatArray:
        """Return the chance of each row to have the right thing among the first `most` (N,)."""
        hits_N: FloatArray = np.clip((most - self.above_N) / (self.level_N + 1.0), 0.0, 1.0)
        return hits_N

    def ranks(self) -> FloatArray:
        """Return the expected place of the right thing (N,), counted from 1."""
        ranks_N: FloatArray = 1.0 + self.above_N + 0.5 * self.level_N
        return ranks_N

    def reciprocal(self) -> FloatArray:
        """Return the expected value of one divided by the place (N,)."""
        sums = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, self.things + 1))])
        values_N: FloatArray = (sums[self.above_N + self.level_N + 1] - sums[self.above_N]) / (self.level_N + 1.0)
        return values_N


def places(targets_N: Array, outputs_NC: FloatArray, way: str) -> Places:
    """Return at which place the right thing stands, by the cosine of the vectors.

    Args:
        targets_N: What each row is of.
        outputs_NC: Vectors of both parts, one after the other (N, 2 W).
        way: "there" to ask with the first part and look for the second, "back" for the other way.
    """
    first_NW, second_NW = sides(outputs_NC)
    asking_NW, found_NW = (first_NW, second_NW) if way in THERE else (second_NW, first_NW)
    things_E, thing_N = np.unique(targets_N, return_inverse=True)
    order_N = np.argsort(thing_N, kind="stable")
    starts_E = np.searchsorted(thing_N[order_N], np.arange(len(things_E)))
    sorted_WN = found_NW[order_N].T
    above_N, level_N = (np.empty(len(targets_N), dtype=np.int64) for _ in range(2))
    step = max(1, _CHUNK_NUMBERS // len(targets_N))
    for start in range(0, len(targets_N), step):
        rows = slice(start, start + step)
        scores_ME = np.maximum.reduceat(asking_NW[rows] @ sorted_WN, starts_E, axis=1)
        own_M1 = np.take_along_axis(scores_ME, thing_N[rows, None], axis=1)
        above_N[rows] = (scores_ME > own_M1 + _SAME).sum(axis=1)
        level_N[rows] = (np.abs(scores_ME - own_M1) <= _SAME).sum(axis=1) - 1
    return Places(above_N, level_N, len(things_E))


def sides(outputs_NC: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the vectors of both parts (N, W), each of length 1."""
    both_N2W = outputs_NC.reshape(len(outputs_NC), _TWO, -1)
    both_N2W = both_N2W / np.linalg.norm(both_N2W, axis=2, keepdims=True)
    return both_N2W[:, 0], both_N2W[:, 1]


class _OfPlaces(MeanLoss):
    """A mean over rows of what follows from the place of the right thing, over one way or both."""

    judges: ClassVar[frozenset[str]] = PAIRS
    higher_is_better: ClassVar[bool | None] = True
    ways: ClassVar[tuple[str, ...]] = THERE + BACK

    @abstractmethod
    def of_places(self, found: Places) -> FloatArray:
        """Return the value of each row (N,)."""

    def losses(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the value of each row (N,), the mean over the ways."""
        values = [self.of_places(places(targets_N, outputs_NC, way)) for way in self.ways]
        return np.asarray(np.mean(values, axis=0))


class RecallAt10(_OfPlaces):
    """Share of rows whose other part is of one of the ten things that stand first, asked both ways."""

    most: ClassVar[int] = 10

    def of_places(self, found: Places) -> FloatArray:
        """Return whether the right thing is found (N,)."""
        return found.hits(self.most)

    def note(self, targets_N: Array, labels: Sequence[Label]) -> str:
        """Say what is asked with, among how many things, and what chance gives; once for all metrics of retrieval."""
        if len(self.ways) < _TWO or not labels:
            return ""
        things = len(np.unique(targets_N))
        first, second = labels
        chance = min(self.most, things) / things
        return (
            f"'there' asks with '{first}' and looks for '{second}' among {things:,} things, 'back' the other way; chance has "
            f"a recall at 10 of {chance:.3f} and a median rank of {(things + 1) / 2:g}"
        )


class RecallAt1There(RecallAt10):
    """Share of rows by whose first part the right thing is found in the first place."""

    most, ways = 1, THERE


class RecallAt5There(RecallAt10):
    """Share of rows by whose first part the right thing is found in the first five places."""

    most, ways = 5, THERE


class RecallAt10There(RecallAt10):
    """Share of rows by whose first part the right thing is found in the first ten places."""

    most, ways = 10, THERE


class RecallAt1Back(RecallAt10):
    """Share of rows by whose second part the right thing is found in the first place."""

    most, ways = 1, BACK


class RecallAt5Back(RecallAt10):
    """Share of rows by whose second part the right thing is found in the first five places."""

    most, ways = 5, BACK


class RecallAt10Back(RecallAt10):
    """Share of rows by whose second part the right thing is found in the first ten places."""

    most, ways = 10, BACK


class ReciprocalRank(_OfPlaces):
    """Mean of one divided by the place of the right thing, asked both ways (Voorhees 1999, TREC-8, "MRR")."""

    def of_places(self, found: Places) -> FloatArray:
        """Return one divided by the place (N,)."""
        return found.reciprocal()


class MedianRankThere(Measure):
    """Median of the places in which the right thing stands, asked with the first part."""

    judges: ClassVar[frozenset[str]] = PAIRS
    higher_is_better: ClassVar[bool | None] = False
    bounds: ClassVar[tuple[float, float]] = (1.0, np.inf)
    in_units: ClassVar[bool] = True
    way: ClassVar[str] = "there"

    def values(self, targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> FloatArray:
        """Return the weighted median: the mean of the two in the middle where there are two; see `Measure.values`."""
        return self._median(places(targets_N, outputs_NC, self.way).ranks(), weights_NR)

    def mixed(self, targets_N: Array, outputs: tuple[FloatArray, FloatArray], second_NR: FloatArray) -> FloatArray:
        """Return the median of places that each model's own vectors give; see `Measure.mixed`."""
        ranks = [places(targets_N, outputs_NC, self.way).ranks() for outputs_NC in outputs]
        return self._median(np.concatenate(ranks), np.concatenate([1.0 - second_NR, second_NR]))

    def _median(self, ranks_N: FloatArray, weights_NR: Array | None) -> FloatArray:
        if weights_NR is None:
            return np.array([np.median(ranks_N)])
        order_N = np.argsort(ranks_N, kind="stable")
        counts_NR = weights_NR[order_N].cumsum(axis=0)
        half_R = counts_NR[-1] / 2
        low_R, high_R = (counts_NR < half_R).sum(axis=0), (counts_NR <= half_R).sum(axis=0)
        sorted_N = ranks_N[order_N]
        medians_R: FloatArray = (sorted_N[low_R] + sorted_N[np.minimum(high_R, len(sorted_N) - 1)]) / 2
        return medians_R


class MedianRankBack(MedianRankThere):
    """Median of the places in which the right thing stands, asked with the second part."""

    way = "back"


__all__ = ["BACK", "PAIRS", "THERE", "Places", "places", "sides"]
