"""The baselines that embarrass two towers: chance, and what one part alone finds in the frozen features.

Shapes: N rows, D width of the frozen features of all parts.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.evaluation.pairs import PAIRS
from regraft.evaluation.rung import Rung, RungRows
from regraft.types import FloatArray

_CHUNK_ROWS = 512


class Chance(Rung):
    """Give all rows the same vector, so that every order is as likely."""

    judges: ClassVar[frozenset[str]] = PAIRS
    uses_features: ClassVar[bool] = False

    def fit(self, rows: RungRows) -> None:
        """Learn nothing."""

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the same vector for both parts of every row (N, 2)."""
        return np.ones((len(features_ND), 2))


class FirstPartAlone(Rung):
    """Look things up by one part alone: what it would look like is taken from the training rows nearest to it in that part.

    A row stands, on the side of the part that asks, at the mean of the other part's features in its five nearest training rows
    (by cosine in the asking part), and on the other side at its own features. So nothing but the frozen base is known, and the
    asking part is never held against the other one. Features are centred by the training rows, and scaled to length 1.
    """

    judges: ClassVar[frozenset[str]] = PAIRS
    asks: ClassVar[int] = 0
    """Which part asks."""
    NEIGHBOURS: ClassVar[int] = 5

    def fit(self, rows: RungRows) -> None:
        """Keep the training rows."""
        self._cut = rows.train.widths[0] if rows.train.widths else rows.train.features_ND.shape[1] // 2
        parts = self._parts(rows.train.features_ND)
        self._means = [part_ND.mean(axis=0) for part_ND in parts]
        asking_ND, other_ND = self._centred(rows.train.features_ND)
        self._asking_ND, self._other_ND = asking_ND, other_ND
        if rows.kind and rows.kind.columns:
            self.note = f"by '{rows.kind.columns[self.asks]}' alone, the {self.NEIGHBOURS} nearest training rows"

    def probabilities(self, features_ND: FloatArray) -> FloatArray:
        """Return the vectors of both sides (N, 2 D'), D' the width of the part that is looked for."""
        asking_ND, other_ND = self._centred(features_ND)
        near = min(self.NEIGHBOURS, len(self._asking_ND))
        carried = []
        for start in range(0, len(asking_ND), _CHUNK_ROWS):
            scores_MN = asking_ND[start : start + _CHUNK_ROWS] @ self._asking_ND.T
            nearest_MK = np.argsort(-scores_MN, axis=1, kind="stable")[:, :near]
            carried.append(_unit(self._other_ND[nearest_MK].mean(axis=1)))
        both = [np.concatenate(carried) if carried else other_ND, other_ND]
        return np.concatenate(both if self.asks == 0 else both[::-1], axis=1)

    def _parts(self, features_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
        exact_ND = features_ND.astype(np.float64)
        return exact_ND[:, : self._cut], exact_ND[:, self._cut :]

    def _centred(self, features_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the features of the part that asks, and of the other one."""
        parts = [_unit(part_ND - mean_D) for part_ND, mean_D in zip(self._parts(features_ND), self._means, strict=True)]
        return parts[self.asks], parts[1 - self.asks]


class SecondPartAlone(FirstPartAlone):
    """Look things up by the second part alone; see `FirstPartAlone`."""

    asks = 1


def _unit(values_ND: FloatArray) -> FloatArray:
    """Return vectors of length 1; one that is all zeros, which is like none, stands along the first axis."""
    lengths_N1 = np.linalg.norm(values_ND, axis=1, keepdims=True)
    first_D = np.eye(1, values_ND.shape[1])
    unit_ND: FloatArray = np.where(lengths_N1 > 0, values_ND / np.maximum(lengths_N1, 1e-300), first_D)
    return unit_ND
