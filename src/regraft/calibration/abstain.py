"""When not to answer: the lowest confidence at which answers are right often enough, with a bound that holds.

Thresholds are tried from the most confident rows downwards, in an order that is fixed before any truth is looked at; the first
one at which too many answers could be wrong ends the search. The chance that the last threshold before it promises too much is
at most one minus the confidence, however many are tried (fixed-sequence testing: Maurer, Hothorn & Lehmacher 1995; Angelopoulos
et al. 2021, arXiv:2110.01052, section 2.2; selective prediction: Geifman & El-Yaniv 2017, arXiv:1705.08500).

Shapes: N rows, K thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from regraft.calibration.binomial import at_most, exact
from regraft.options import JSON
from regraft.types import Array, FloatArray

CONFIDENCE = 0.95
"""Of the bound behind a threshold."""
STEPS = 100
"""Thresholds that are kept at most: evenly spaced numbers of rows, the most confident first."""
_SPARE = 2
"""So many wrong answers the first threshold that is tried could bear: one wrong label must not end the search at once."""


@dataclass(frozen=True)
class Thresholds:
    """How often answers of at least a confidence were wrong, on rows that the network did not learn from.

    Args:
        rows: How many there were.
        confidences_K: Thresholds, falling.
        answered_K: Rows of at least that confidence.
        wrong_K: Of these, rows whose answer was wrong.
    """

    rows: int
    confidences_K: tuple[float, ...]
    answered_K: tuple[int, ...]
    wrong_K: tuple[int, ...]

    @classmethod
    def of(cls, confidences_N: FloatArray, right_N: Array, steps: int = STEPS) -> Thresholds:
        """Count rows and wrong answers at evenly spaced numbers of rows; rows of equal confidence are answered together."""
        rows = len(confidences_N)
        order_N = np.argsort(-confidences_N, kind="stable")
        sorted_N, wrong_N = confidences_N[order_N], np.cumsum(~right_N[order_N])
        wanted = np.unique(np.ceil(np.linspace(0, rows, min(rows, steps) + 1)[1:]).astype(np.int64))
        # The last row of those that are as confident as the one there.
        ends = np.unique(np.searchsorted(-sorted_N, -sorted_N[wanted - 1], side="right")).tolist()
        return cls(
            rows,
            tuple(float(sorted_N[end - 1]) for end in ends),
            tuple(int(end) for end in ends),
            tuple(int(wrong_N[end - 1]) for end in ends),
        )

    def threshold(self, precision: float, confidence: float = CONFIDENCE) -> float | None:
        """Return the lowest confidence from which answers are right at least so often, or None where none can be promised.

        Args:
            precision: Share of the answers that must be right, over 0 and under 1.
            confidence: Chance that the promise holds.
        """
        risk, found = 1.0 - precision, None
        first = _enough_rows(risk, confidence, self.rows)
        for threshold, answered, wrong in zip(self.confidences_K, self.answered_K, self.wrong_K, strict=True):
            if answered < first:
                continue
            if at_most(wrong, answered, risk) > 1.0 - confidence:
                break
            found = threshold
        return found

    def at(self, threshold: float) -> tuple[int, int]:
        """Return how many rows are at least so confident, and how many of them are wrong; of the thresholds that are kept."""
        kept = [place for place, value in enumerate(self.confidences_K) if value >= threshold]
        return (self.answered_K[kept[-1]], self.wrong_K[kept[-1]]) if kept else (0, 0)

    def curve(self, confidence: float = CONFIDENCE) -> list[dict[str, JSON]]:
        """Return for each threshold what share of rows is answered and what share of these is wrong, with exact intervals."""
        points: list[dict[str, JSON]] = []
        for threshold, answered, wrong in zip(self.confidences_K, self.answered_K, self.wrong_K, strict=True):
            low, high = exact(wrong, answered, confidence)
            points.append(
                {
                    "threshold": threshold,
                    "coverage": answered / self.rows,
                    "risk": wrong / answered,
                    "risk_low": low,
                    "risk_high": high,
                    "n": answered,
                }
            )
        return points

    def to_json(self) -> dict[str, JSON]:
        """Return the counts."""
        return {
            "rows": self.rows,
            "confidences": list(self.confidences_K),
            "answered": list(self.answered_K),
            "wrong": list(self.wrong_K),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, JSON]) -> Thresholds:
        """Return what `to_json` wrote.

        Raises:
            ValueError: They are no such counts.
        """
        confidences = tuple(float(value) for value in values["confidences"])
        answered, wrong = (tuple(int(count) for count in values[name]) for name in ("answered", "wrong"))
        falling = list(confidences) == sorted(confidences, reverse=True) and all(map(math.isfinite, confidences))
        sound = all(0 <= bad <= rows and rows > 0 for bad, rows in zip(wrong, answered, strict=True))
        if not (falling and sound and len(confidences) == len(answered) and list(answered) == sorted(answered)):
            raise ValueError("the thresholds of an artifact are no counts of answered and wrong rows")
        return cls(int(values["rows"]), confidences, answered, wrong)


def _enough_rows(risk: float, confidence: float, rows: int) -> int:
    """Return the number of rows at which `_SPARE` wrong ones would pass; fewer wrong ones where there are not so many rows."""
    for wrong in range(_SPARE, -1, -1):
        low, high = 1, rows
        if rows and at_most(wrong, rows, risk) <= 1.0 - confidence:
            while low < high:
                middle = (low + high) // 2
                if at_most(wrong, middle, risk) <= 1.0 - confidence:
                    high = middle
                else:
                    low = middle + 1
            return low
    return rows + 1
