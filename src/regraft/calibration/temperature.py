"""Temperature scaling: one number that all logits are divided by."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from regraft.calibration.calibrator import Calibrator, minimised, numbers
from regraft.calibration.links import Link
from regraft.options import JSON
from regraft.types import Array, FloatArray


class Temperature(Calibrator):
    """Divide logits by a temperature: z / T (Guo et al. 2017, arXiv:1706.04599, eq. 9). The answer stays the same.

    Where columns are true or not by themselves (labels, steps between ranks) each has a temperature of its own. Deviation:
    log T has a standard normal prior, so that rows which are all answered rightly do not say T = 0.

    Args:
        temperatures: One, or one a column.
    """

    name: ClassVar[str] = "temperature"

    def __init__(self, temperatures: FloatArray) -> None:
        self.temperatures = temperatures

    @classmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Find the temperatures at which the log-loss of the rows, with the prior, is smallest."""
        size = 1 if link.together else evidence_NC.shape[1]

        def objective(logs_P: FloatArray) -> tuple[float, FloatArray]:
            scaled_NC = evidence_NC / np.exp(logs_P)
            slopes_C = -(link.slopes(scaled_NC, targets) * scaled_NC).sum(axis=0)
            gradient_P = slopes_C.sum(keepdims=True) if size == 1 else slopes_C
            total = float(link.losses(scaled_NC, targets).sum() + 0.5 * strength * np.square(logs_P).sum())
            return total, gradient_P + strength * logs_P

        return cls(np.exp(minimised(objective, np.zeros(size))))

    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return z / T."""
        scaled_NC: FloatArray = evidence_NC / self.temperatures
        return scaled_NC

    def state(self) -> dict[str, JSON]:
        """Return the temperatures."""
        return {"temperatures": self.temperatures.tolist()}

    @classmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return one with these temperatures."""
        return cls(numbers(state, "temperatures", positive=True))

    @property
    def steepness(self) -> float:
        """1 / T."""
        return max(1.0, float(1.0 / self.temperatures.min()))

    def scale_and_bias(self, columns: int) -> tuple[FloatArray, FloatArray]:
        """Return 1 / T and 0."""
        return np.broadcast_to(1.0 / self.temperatures, (columns,)).copy(), np.zeros(columns)
