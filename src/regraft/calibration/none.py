"""No calibration: evidence as the network gives it."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from regraft.calibration.calibrator import Calibrator
from regraft.calibration.links import Link
from regraft.options import JSON
from regraft.types import Array, FloatArray


class Unchanged(Calibrator):
    """Leave evidence as it is."""

    name: ClassVar[str] = "none"
    kinds: ClassVar[frozenset[str]] = frozenset({"odds", "levels"})

    @classmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Learn nothing."""
        return cls()

    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return the evidence itself."""
        return evidence_NC

    def state(self) -> dict[str, JSON]:
        """Return nothing."""
        return {}

    @classmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return one that changes nothing."""
        return cls()

    def scale_and_bias(self, columns: int) -> tuple[FloatArray, FloatArray]:
        """Return 1 and 0."""
        return np.ones(columns), np.zeros(columns)
