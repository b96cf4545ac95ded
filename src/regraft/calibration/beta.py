"""Beta calibration: log-odds as a mixture of log p and log(1 - p)."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from regraft.calibration.calibrator import Calibrator, minimised, numbers
from regraft.calibration.links import Link, log_sigmoid, sigmoid
from regraft.options import JSON
from regraft.types import Array, FloatArray


class Beta(Calibrator):
    """Make log-odds a log p - b log(1 - p) + c, with a, b > 0 (Kull, Silva Filho & Flach 2017, eq. 6, AISTATS).

    Each column against the rest; the classes of a row are then made to add up to 1. Deviations: a and b are kept above 0 as
    exponentials, not by leaving one out; log a, log b and c have standard normal priors.

    Args:
        powers_3C: a, b and c of each column.
    """

    name: ClassVar[str] = "beta"

    def __init__(self, powers_3C: FloatArray) -> None:
        self.powers_3C = powers_3C

    @classmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Find a, b and c at which the log-loss of each column against the rest, with the prior, is smallest."""
        columns = evidence_NC.shape[1]
        marks_NC, odds_NC = link.marks(targets, columns), link.odds(evidence_NC)
        counts_NC = ~np.isnan(marks_NC)
        yes_NC, no_NC = log_sigmoid(odds_NC), -log_sigmoid(-odds_NC)
        signs_NC, truth_NC = np.where(marks_NC > 0, 1.0, -1.0), np.nan_to_num(marks_NC)

        def objective(parameters_P: FloatArray) -> tuple[float, FloatArray]:
            logs_3C = parameters_P.reshape(3, columns)
            a_C, b_C, c_C = np.exp(logs_3C[0]), np.exp(logs_3C[1]), logs_3C[2]
            changed_NC = a_C * yes_NC + b_C * no_NC + c_C
            slopes_NC = np.where(counts_NC, sigmoid(changed_NC) - truth_NC, 0.0)
            gradient_3C = np.stack(
                [(slopes_NC * yes_NC).sum(axis=0) * a_C, (slopes_NC * no_NC).sum(axis=0) * b_C, slopes_NC.sum(axis=0)]
            )
            total = -float(np.where(counts_NC, log_sigmoid(signs_NC * changed_NC), 0.0).sum())
            total += 0.5 * strength * float(np.square(parameters_P).sum())
            return total, gradient_3C.ravel() + strength * parameters_P

        found_3C = minimised(objective, np.zeros(3 * columns)).reshape(3, columns)
        return cls(np.concatenate([np.exp(found_3C[:2]), found_3C[2:]]))

    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return the evidence of the changed log-odds."""
        odds_NC = link.odds(evidence_NC)
        a_C, b_C, c_C = self.powers_3C
        return link.evidence(a_C * log_sigmoid(odds_NC) - b_C * log_sigmoid(-odds_NC) + c_C)

    def state(self) -> dict[str, JSON]:
        """Return a, b and c of each column."""
        return dict(zip("abc", self.powers_3C.tolist(), strict=True))

    @classmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return one with these a, b and c."""
        return cls(np.stack([numbers(state, "a", positive=True), numbers(state, "b", positive=True), numbers(state, "c")]))

    @property
    def steepness(self) -> float:
        """Twice the larger of a and b: log-odds move by up to two moves of a logit, and by a or b times that."""
        return max(1.0, 2.0 * float(self.powers_3C[:2].max()))
