"""A fall along a power of what is left."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options
from regraft.training.schedules import Floor, Schedule


@options
class PolynomialOptions:
    """How steep the fall begins, and where it ends."""

    power: Annotated[float, Field(gt=0.0)] = 2.0
    """Exponent; 1 is a straight line."""

    floor: Floor = 0.0
    """Share of the peak rate that is left at the end."""


class Polynomial(Schedule):
    """Fall along a power: floor + (1 - floor) (1 - progress)^power.

    Chen et al. 2016 (DeepLab), arXiv:1606.00915, section 4.1.2.

    Example:
        >>> Polynomial(PolynomialOptions(power=2.0)).multiplier(0.5)
        0.25
    """

    Options = PolynomialOptions

    def multiplier(self, progress: float) -> float:
        """Return the height of the curve."""
        floor: float = self.options.floor
        return float(floor + (1.0 - floor) * (1.0 - progress) ** self.options.power)
