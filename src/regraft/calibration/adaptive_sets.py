"""Sets of classes that grow where the network is unsure: APS, and RAPS, which keeps them small.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np

from regraft.calibration.score import Score
from regraft.options import Field, options
from regraft.types import Array, FloatArray


@options
class AdaptiveOptions:
    """APS has nothing to choose."""


@options
class RegularisedOptions:
    """What large sets cost."""

    weight: Annotated[float, Field(ge=0.0)] = 0.01
    """What each class beyond `rank` adds to how strange an answer is (lambda)."""

    rank: Annotated[int, Field(ge=0)] = 5
    """Classes that cost nothing, the most probable ones (k_reg)."""


class AdaptiveSets(Score):
    """APS: how much probability the classes have that are more probable (Romano, Sesia & Candes 2020, arXiv:2006.02540).

    Not randomised (there u = 1 in eq. 5 and 7), so that a row has the same set everywhere. The most probable class is therefore
    in every set: where the answer is right more often than the wanted coverage, sets hold one class and cover more.
    """

    Options: ClassVar[type[Any]] = AdaptiveOptions
    name: ClassVar[str] = "aps"
    answers: ClassVar[frozenset[str]] = frozenset({"classes", "ranks"})

    def of_truth(self, judged_NC: FloatArray, targets_N: Array) -> FloatArray:
        """Return the score of the true class of each row (N,)."""
        found_N: FloatArray = self._of_all(judged_NC)[np.arange(len(targets_N)), targets_N]
        return found_N

    def sets(self, judged_NC: FloatArray, limits_C: FloatArray) -> Array:
        """Return which classes have a score up to their limit (N, C), bool."""
        return np.asarray(self._of_all(judged_NC) <= limits_C)

    def _of_all(self, judged_NC: FloatArray) -> FloatArray:
        """Return the score of every class (N, C): of equally probable ones the first in label order counts as more probable."""
        order_NC = np.argsort(-judged_NC, axis=1, kind="stable")
        sorted_NC = np.take_along_axis(judged_NC, order_NC, axis=1)
        above_NC = np.cumsum(sorted_NC, axis=1) - sorted_NC
        above_NC[:, 0] = 0.0
        scores_NC = np.empty_like(above_NC)
        np.put_along_axis(scores_NC, order_NC, above_NC + self._penalties(judged_NC.shape[1]), axis=1)
        return scores_NC

    def _penalties(self, classes: int) -> FloatArray:
        """Return what a class costs by its place among the classes of a row, the most probable first (C,)."""
        return np.zeros(classes)


class RegularisedSets(AdaptiveSets):
    """RAPS: APS, and each class beyond a rank costs something (Angelopoulos et al. 2021, arXiv:2009.14193, eq. 4)."""

    Options: ClassVar[type[Any]] = RegularisedOptions
    name: ClassVar[str] = "raps"

    def _penalties(self, classes: int) -> FloatArray:
        penalties_C: FloatArray = self.options.weight * np.maximum(0.0, np.arange(1, classes + 1) - self.options.rank)
        return penalties_C
