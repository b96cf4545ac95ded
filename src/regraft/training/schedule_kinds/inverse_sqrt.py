"""A fall with the root of the number of steps."""

from __future__ import annotations

import math
from typing import Annotated

from regraft.options import Field, options
from regraft.training.schedules import Schedule


@options
class InverseSqrtOptions:
    """After how many steps the fall is felt."""

    time_share: Annotated[float, Field(gt=0.0)] = 0.1
    """Share s of the steps after warm-up that is added to those done; as long as the warm-up in the paper."""


class InverseSqrt(Schedule):
    """Fall with the root of the steps: sqrt(s / (progress + s)).

    Vaswani et al. 2017, arXiv:1706.03762, equation 3, in shares of training.

    Example:
        >>> InverseSqrt(InverseSqrtOptions(time_share=0.25)).multiplier(0.75)
        0.5
    """

    Options = InverseSqrtOptions

    def multiplier(self, progress: float) -> float:
        """Return the height of the curve."""
        share: float = self.options.time_share
        return math.sqrt(share / (progress + share))
