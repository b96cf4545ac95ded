"""Isotonic calibration: any function that never falls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from regraft.calibration.calibrator import Calibrator, numbers
from regraft.calibration.links import LIMIT, Link
from regraft.options import JSON
from regraft.types import Array, FloatArray

STEEPEST = 8.0
"""Log-odds rise by at most so many times the log-odds they were: a step would turn a last bit into another answer."""

_SAME = (np.array([-LIMIT, LIMIT]), np.array([-LIMIT, LIMIT]))


class Isotonic(Calibrator):
    """Give each column the shares seen in blocks of rows, pooled until they never fall (Zadrozny & Elkan 2002).

    Each column against the rest; the classes of a row are then made to add up to 1. Deviations, so that the last bits of a
    network stay last bits and nothing is said to be impossible: between the middles of blocks, and not at their edges, the
    log-odds are joined by lines; blocks that would make them rise too steeply are pooled as well; the share of a block stays
    one row of all (n + 2) off 0 and 1.

    Args:
        knots: For each column the log-odds of the middles of its blocks, ascending, and the log-odds of what was seen there.
    """

    name: ClassVar[str] = "isotonic"

    def __init__(self, knots: Sequence[tuple[FloatArray, FloatArray]]) -> None:
        self.knots = tuple(knots)

    @classmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Pool the rows of each column; a column that counts in no row is left as it is."""
        marks_NC, odds_NC = link.marks(targets, evidence_NC.shape[1]), link.odds(evidence_NC)
        found = []
        for marks_N, odds_N in zip(marks_NC.T, odds_NC.T, strict=True):
            there = ~np.isnan(marks_N)
            found.append(_knots(odds_N[there], marks_N[there]) if there.any() else _SAME)
        return cls(found)

    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return the evidence of the changed log-odds."""
        odds_NC = link.odds(evidence_NC)
        columns = [np.interp(odds_N, xs_K, ys_K) for odds_N, (xs_K, ys_K) in zip(odds_NC.T, self.knots, strict=True)]
        return link.evidence(np.stack(columns, axis=1))

    def state(self) -> dict[str, JSON]:
        """Return the knots of each column."""
        return {"columns": [{"at": xs_K.tolist(), "odds": ys_K.tolist()} for xs_K, ys_K in self.knots]}

    @classmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return one with these knots."""
        made = [(numbers(column, "at"), numbers(column, "odds")) for column in state["columns"]]
        if any(len(xs_K) != len(ys_K) or not len(xs_K) or (np.diff(xs_K) <= 0).any() for xs_K, ys_K in made):
            raise ValueError("the knots of a calibrator are no ascending numbers with one value each")
        return cls(made)

    @property
    def steepness(self) -> float:
        """Twice the steepest rise: log-odds move by up to two moves of a logit."""
        rises = [float((np.diff(ys_K) / np.diff(xs_K)).max(initial=0.0)) for xs_K, ys_K in self.knots]
        return max(1.0, 2.0 * max(rises))


def pooled(values_N: FloatArray, weights_N: FloatArray) -> tuple[FloatArray, Array]:
    """Return the means of blocks and where blocks start, in the least-squares fit that never falls.

    Neighbours that fall are pooled until none does (Ayer et al. 1955; Barlow et al. 1972, "pool adjacent violators").

    Args:
        values_N: In the order in which they must not fall.
        weights_N: Above 0.

    Example:
        >>> means, starts = pooled(np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4))
        >>> means.tolist(), starts.tolist()
        ([0.0, 0.5, 1.0], [0, 1, 3])
    """
    means: list[float] = []
    weights: list[float] = []
    starts: list[int] = []
    for place, (value, weight) in enumerate(zip(values_N.tolist(), weights_N.tolist(), strict=True)):
        means.append(value)
        weights.append(weight)
        starts.append(place)
        while len(means) > 1 and means[-2] >= means[-1]:
            total = weights[-2] + weights[-1]
            means[-2:] = [(weights[-2] * means[-2] + weights[-1] * means[-1]) / total]
            weights[-2:] = [total]
            del starts[-1]
    return np.array(means), np.array(starts, dtype=np.int64)


def _knots(odds_N: FloatArray, marks_N: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return middles and log-odds of the blocks of one column."""
    rows = len(odds_N)
    at_U, inverse_N, count_U = np.unique(odds_N, return_inverse=True, return_counts=True)
    right_U = np.bincount(inverse_N, weights=marks_N, minlength=len(at_U))
    _, starts_K = pooled(right_U / count_U, count_U.astype(np.float64))
    sums = (count_U * at_U, count_U.astype(np.float64), right_U)
    blocks = np.stack([np.add.reduceat(each, starts_K) for each in sums], axis=1)
    while True:
        xs_K = blocks[:, 0] / blocks[:, 1]
        shares_K = np.clip(blocks[:, 2] / blocks[:, 1], 1 / (rows + 2), (rows + 1) / (rows + 2))
        ys_K = np.log(shares_K) - np.log1p(-shares_K)
        if len(xs_K) == 1:
            return xs_K, ys_K
        rises = np.diff(ys_K) / np.diff(xs_K)
        worst = int(np.argmax(rises))
        if rises[worst] <= STEEPEST:
            return xs_K, ys_K
        joined = blocks[worst] + blocks[worst + 1]
        blocks = np.concatenate([blocks[:worst], joined[None], blocks[worst + 2 :]])
