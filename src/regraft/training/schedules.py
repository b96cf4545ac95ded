"""How the learning rate moves: a warm-up from zero, then one of these schedules down from the peak."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from regraft.options import JSON, Field, options

Floor = Annotated[float, Field(ge=0.0, le=1.0)]


class Schedule(ABC):
    """Give the share of the peak rate after warm-up.

    Args:
        options: An instance of `Options`.
    """

    Options: ClassVar[type[Any]]
    judges: ClassVar[bool] = False
    """Whether it follows validations, so that there must be some."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def judged(self, value: float) -> None:  # noqa: B027 - most follow steps alone
        """Take in what a validation gave.

        Args:
            value: Of the metric that chooses the best weights; larger is better.
        """

    def state(self) -> dict[str, JSON]:
        """Return what validations change in it."""
        return {}

    def put_back(self, state: Mapping[str, JSON]) -> None:  # noqa: B027 - most have no state
        """Take what `state` gave."""

    @abstractmethod
    def multiplier(self, progress: float) -> float:
        """Return the share of the peak rate.

        Args:
            progress: Share of the steps after warm-up that are done, in [0, 1).
        """


@options
class FallOptions:
    """Where a falling schedule ends."""

    floor: Floor = 0.0
    """Share of the peak rate that is left at the end."""


@options
class ConstantOptions:
    """A constant rate has nothing to choose."""


class Linear(Schedule):
    """Fall in a straight line: floor + (1 - floor) (1 - progress).

    Example:
        >>> Linear(FallOptions()).multiplier(0.25)
        0.75
    """

    Options = FallOptions

    def multiplier(self, progress: float) -> float:
        """Return the height of the line."""
        floor: float = self.options.floor
        return floor + (1.0 - floor) * (1.0 - progress)


class Cosine(Schedule):
    """Fall along half a cosine: floor + (1 - floor) (1 + cos(pi progress)) / 2.

    Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    Example:
        >>> Cosine(FallOptions()).multiplier(0.5)
        0.5
    """

    Options = FallOptions

    def multiplier(self, progress: float) -> float:
        """Return the height of the curve."""
        floor: float = self.options.floor
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Constant(Schedule):
    """Stay at the peak."""

    Options = ConstantOptions

    def multiplier(self, progress: float) -> float:
        """Return 1."""
        return 1.0


def share_of_peak(step: int, total_steps: int, warmup_share: float, schedule: Schedule) -> float:
    """Return by what the peak rate is multiplied at one step: (step + 1) / (W + 1) in the W warm-up steps, then the schedule.

    The hub's schedules start at exactly 0, so that their first update changes nothing; this one spends no step on that.

    Args:
        step: Updates already done, from 0.
        total_steps: Updates planned.
        warmup_share: Share of all steps that warm up, in [0, 1).
        schedule: What comes after warm-up.

    Example:
        >>> [share_of_peak(step, 4, 0.5, Linear(FallOptions())) for step in range(4)]
        [0.3333333333333333, 0.6666666666666666, 1.0, 0.5]
    """
    warmup = int(total_steps * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return schedule.multiplier((step - warmup) / max(1, total_steps - warmup))
