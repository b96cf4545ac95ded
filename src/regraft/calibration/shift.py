"""Quantile recalibration: each quantile is moved by what it was off on rows that the network did not learn from."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np

from regraft.calibration.calibrator import Calibrator, numbers
from regraft.calibration.links import Levels, Link
from regraft.options import JSON
from regraft.types import Array, FloatArray


class Shift(Calibrator):
    """Add to the quantile of each level the quantile of that level of what was left over: target less quantile.

    Each quantile is then the upper end of a one-sided conformal interval (Romano, Patterson & Candes 2019, arXiv:1905.03222,
    section 3, one side), so that the shares at or below are those of the levels, as in Kuleshov et al. 2018 (arXiv:1807.00263),
    also beyond the outermost levels, where theirs cannot look up. Quantiles that would cross are put in order.

    Args:
        shifts_Q: What is added to each quantile.
    """

    name: ClassVar[str] = "shift"
    kinds: ClassVar[frozenset[str]] = frozenset({"levels"})

    def __init__(self, shifts_Q: FloatArray) -> None:
        self.shifts_Q = shifts_Q

    @classmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Take the k-th smallest of what is left over at each level, k = (n + 1) level rounded up, within 1 and n."""
        if not isinstance(link, Levels):
            raise TypeError(f"{link.kind} have no levels")
        left_NQ = np.sort(targets[:, None] - evidence_NC, axis=0)
        rows = len(left_NQ)
        places = [min(rows, max(1, math.ceil((rows + 1) * level))) - 1 for level in link.levels_C.tolist()]
        return cls(left_NQ[places, np.arange(len(places))])

    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return the quantiles moved, in order."""
        return np.sort(evidence_NC + self.shifts_Q, axis=1)

    def state(self) -> dict[str, JSON]:
        """Return the shifts."""
        return {"shifts": self.shifts_Q.tolist()}

    @classmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return one with these shifts."""
        return cls(numbers(state, "shifts"))
