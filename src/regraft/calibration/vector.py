"""Vector scaling: each logit has a factor and a summand of its own."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from regraft.calibration.calibrator import Calibrator, minimised, numbers
from regraft.calibration.links import Link
from regraft.options import JSON
from regraft.types import Array, FloatArray


class Vector(Calibrator):
    """Give each logit a factor and a summand: w z + b (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    Where columns are true or not by themselves this is Platt scaling of each (Platt 1999). Deviations: factors are positive, so
    that a larger logit never means less; log w and b have standard normal priors.

    Args:
        weights_C: Factors, above 0.
        biases_C: Summands.
    """

    name: ClassVar[str] = "vector"

    def __init__(self, weights_C: FloatArray, biases_C: FloatArray) -> None:
        self.weights_C = weights_C
        self.biases_C = biases_C

    @classmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Find the factors and summands at which the log-loss of the rows, with the prior, is smallest."""
        columns = evidence_NC.shape[1]

        def objective(parameters_P: FloatArray) -> tuple[float, FloatArray]:
            weights_C, biases_C = np.exp(parameters_P[:columns]), parameters_P[columns:]
            changed_NC = weights_C * evidence_NC + biases_C
            slopes_NC = link.slopes(changed_NC, targets)
            gradient_P = np.concatenate([(slopes_NC * evidence_NC).sum(axis=0) * weights_C, slopes_NC.sum(axis=0)])
            total = float(link.losses(changed_NC, targets).sum() + 0.5 * strength * np.square(parameters_P).sum())
            return total, gradient_P + strength * parameters_P

        found_P = minimised(objective, np.zeros(2 * columns))
        biases_C = found_P[columns:]
        # Of a row that shares one sum, a summand of all columns changes nothing.
        return cls(np.exp(found_P[:columns]), biases_C - biases_C.mean() if link.together else biases_C)

    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return w z + b."""
        changed_NC: FloatArray = self.weights_C * evidence_NC + self.biases_C
        return changed_NC

    def state(self) -> dict[str, JSON]:
        """Return factors and summands."""
        return {"weights": self.weights_C.tolist(), "biases": self.biases_C.tolist()}

    @classmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return one with these factors and summands."""
        return cls(numbers(state, "weights", positive=True), numbers(state, "biases"))

    @property
    def steepness(self) -> float:
        """The largest factor."""
        return max(1.0, float(self.weights_C.max()))

    def scale_and_bias(self, columns: int) -> tuple[FloatArray, FloatArray]:
        """Return factors and summands."""
        return self.weights_C, self.biases_C
