"""What a calibrator is: a function from evidence to evidence, learnt from rows that the network did not learn from.

Fitting one may take more than numpy; applying it does not, so that every runtime and every export gives the same numbers.

Shapes: N rows, C columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np

from regraft.calibration.links import Link
from regraft.options import JSON
from regraft.types import Array, FloatArray


class Calibrator(ABC):
    """Change evidence so that its probabilities are those that are seen. One file each, one line each in `CALIBRATORS`."""

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = frozenset({"odds"})
    """Kinds of links (`Link.kind`) that it is for."""

    @classmethod
    @abstractmethod
    def fit(cls, evidence_NC: FloatArray, targets: Array, link: Link, *, strength: float = 1.0) -> Self:
        """Learn from rows whose truth is known.

        Args:
            evidence_NC: As the network gives it, float64.
            targets: What is true.
            link: What the evidence means.
            strength: How strongly parameters are drawn to those that change nothing: the log-density of a standard normal
                distribution, once. 0 leaves all to the rows, which then may say "infinitely sure".
        """

    @abstractmethod
    def apply(self, evidence_NC: FloatArray, link: Link) -> FloatArray:
        """Return the evidence (N, C) whose probabilities are calibrated. Numpy only."""

    @abstractmethod
    def state(self) -> dict[str, JSON]:
        """Return what was learnt, as JSON."""

    @classmethod
    @abstractmethod
    def restore(cls, state: dict[str, JSON]) -> Self:
        """Return the calibrator that has learnt `state`.

        Raises:
            KeyError: Something is missing.
            ValueError: A number cannot be.
        """

    @property
    def steepness(self) -> float:
        """By what factor a move of the evidence can grow at most; never below 1."""
        return 1.0

    def scale_and_bias(self, columns: int) -> tuple[FloatArray, FloatArray] | None:
        """Return factors and summands (C,) that do the same to logits, or nothing where no such numbers do."""
        return None


def minimised(objective: Callable[[FloatArray], tuple[float, FloatArray]], start_P: FloatArray) -> FloatArray:
    """Return the parameters at the minimum of a smooth function, from value and gradient (L-BFGS: Liu & Nocedal 1989)."""
    from scipy.optimize import minimize

    found = minimize(objective, start_P, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7})
    parameters_P: FloatArray = np.asarray(found.x, dtype=np.float64)
    return parameters_P


def numbers(state: dict[str, JSON], name: str, *, positive: bool = False) -> FloatArray:
    """Return numbers of a state as an array.

    Raises:
        KeyError: They are not there.
        ValueError: They are no finite numbers, or not above 0 where they must be.
    """
    found: FloatArray = np.array(state[name], dtype=np.float64)
    if not np.isfinite(found).all() or (positive and not (found > 0).all()):
        raise ValueError(f"'{name}' of a calibrator holds {found.tolist()[:5]}")
    return found
