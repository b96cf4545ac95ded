"""Warm-up, stable, decay: the peak rate for most of training, then a short fall."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from regraft.options import Field, options
from regraft.training.schedules import Floor, Schedule

_HALVINGS = 10


@options
class WsdOptions:
    """When the fall begins, and how it goes."""

    decay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the steps after warm-up over which the rate falls, at the end."""

    shape: Literal["exponential", "line", "root"] = "exponential"
    """How it falls: exponential (2^(-10 x), as in the paper), line (1 - x), or root (1 - sqrt(x)), for x from 0 to 1."""

    floor: Floor = 0.0
    """Share of the peak rate that is left at the end."""


class Wsd(Schedule):
    """Stay at the peak, then fall over the last part: warm-up, stable, decay.

    Hu et al. 2024 (MiniCPM), arXiv:2404.06395, section 4, whose fall is exponential, here with a half-life of a tenth of the
    fall; the other two shapes as in Hägele et al. 2024, arXiv:2405.18392, section 3.

    Example:
        >>> wsd = Wsd(WsdOptions(decay_share=0.5, shape="line"))
        >>> [wsd.multiplier(progress) for progress in (0.0, 0.5, 0.75)]
        [1.0, 1.0, 0.5]
    """

    Options = WsdOptions

    def multiplier(self, progress: float) -> float:
        """Return 1, or the height of the fall."""
        chosen = self.options
        x = max(0.0, (progress - (1.0 - chosen.decay_share)) / chosen.decay_share)
        falls = {"exponential": 2.0 ** (-_HALVINGS * x), "line": 1.0 - x, "root": 1.0 - math.sqrt(x)}
        return float(chosen.floor + (1.0 - chosen.floor) * falls[chosen.shape])
